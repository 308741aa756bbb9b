"""Quotes values for Hydra's override grammar and the shell."""

import re
import shlex


def quoted(text: str) -> str:
    """`text` in single quotes; Hydra's grammar escapes quotes, and backslashes only in front of one."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def argument(key: str, value: object) -> str:
    """``key=value`` to paste into a shell, quoted where the shell or Hydra's grammar needs it."""
    text = str(value)
    if re.fullmatch(r"[\w./:@%+-]+", text, re.ASCII):
        return f"{key}={text}"
    override = f"{key}={quoted(text)}"
    return shlex.quote(override) if re.search(r'["$`\\!]', override) else f'"{override}"'
