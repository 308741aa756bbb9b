"""Overrides in Hydra's grammar: quotes values for it and for the shell, and reads them as Hydra does."""

import re
import shlex
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf


def quoted(text: str) -> str:
    """`text` in single quotes, as Hydra's grammar and then OmegaConf, which replaces ${…}, read it back."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # The grammar escapes quotes, and backslashes only in front of one.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", literal)
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", escaped) + "'"


def argument(key: str, value: object) -> str:
    """``key=value`` to paste into a shell, quoted where the shell or Hydra's grammar needs it."""
    text = str(value)
    if re.fullmatch(r"[\w./:@%+-]+", text, re.ASCII) and value_of(parse([f"{key}={text}"])[0][1]) == text:
        return f"{key}={text}"
    override = f"{key}={quoted(text)}"
    return shlex.quote(override) if re.search(r'["$`\\!]', override) else f'"{override}"'


def parse(overrides: Iterable[str]) -> list[tuple[str, Override]]:
    """Overrides with their keys, which are without + and ~.

    Raises:
        hydra.errors.OverrideParseException: one is not in Hydra's grammar.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [(override.get_key_element().lstrip("+~"), override) for override in parsed]


def value_of(override: Override) -> Any:
    """The value that Hydra composes."""
    return OmegaConf.create({"value": override.value()})["value"]
