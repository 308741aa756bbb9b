"""Text as Hydra's grammar of overrides takes it."""

import re
import shlex


def quoted(text: str) -> str:
    """As Hydra's grammar reads it back: a quote is escaped, and a backslash only where it stands before one."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def argument(key: str, value: object) -> str:
    """``key=value`` to be copied into a shell, in quotes where that or Hydra's grammar needs them."""
    text = str(value)
    if re.fullmatch(r"[\w./:@%+-]+", text, re.ASCII):
        return f"{key}={text}"
    made = f"{key}={quoted(text)}"
    return shlex.quote(made) if re.search(r'["$`\\!]', made) else f'"{made}"'
