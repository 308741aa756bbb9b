"""Text as Hydra's grammar of overrides takes it."""

import re


def quoted(text: str) -> str:
    """As Hydra's grammar reads it back: a quote is escaped, and a backslash only where it stands before one."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
