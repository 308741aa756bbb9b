"""A grid of training configurations in one command: what `fvit-bench` measures side by side."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import open_dict

from fvit.run import schema, validate
from fvit.run.errors import ConfigError


def gather(arguments: Sequence[str], own: Collection[str]) -> list[str]:
    """The command line of a task whose other overrides describe what it works on.

    An override of one of the task's `own` keys stays, and ``res=224,384`` becomes ``res=[224,384]``: there is no
    multirun in which it could mean two jobs. All others are collected into the one list ``candidates=[…]``, for
    `expand`. Flags stay.
    """
    kept, collected = [], []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or argument.startswith("-"):
            kept.append(argument)
        elif key.lstrip("+~").partition(".")[0] not in (*own, "hydra"):
            collected.append(argument)
        elif "," in value and value[0] not in "[({'\"":
            kept.append(f"{key}=[{value}]")
        else:
            kept.append(argument)
    if collected:
        quoted = ("'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'" for text in collected)
        kept.append(f"candidates=[{','.join(quoted)}]")
    return kept


@dataclass(frozen=True)
class Cell:
    """One point of a grid: the overrides that make it."""

    overrides: tuple[str, ...]

    @property
    def model(self) -> str:
        """What the model is called in tables: the name given to timm, or the option of the group `model`."""
        return self._value("model.name") or self._value("model") or "vit_atto"

    @property
    def attention(self) -> str:
        """The option of the group `attention`: the default's, or timm's own, if none is given."""
        return self._value("attention") or ("native" if self._value("model") == "timm" else "additive")

    def compose(self, *further: str) -> dict[str, Any]:
        """The checked training configuration.

        Raises:
            ConfigError: it does not fit together.
        """
        cfg = compose("train", overrides=["title=''", *self.overrides, *further])
        with open_dict(cfg):
            cfg.output_dir = ""
        return validate.check(cfg, schema.Train)

    def _value(self, key: str) -> str | None:
        return next((text.partition("=")[2] for text in self.overrides if text.startswith(f"{key}=")), None)


def expand(overrides: Sequence[str]) -> list[Cell]:
    """All points of a grid: ``attention=a,b`` and ``model.name=[a,b]`` both mean one after the other.

    Raises:
        ConfigError: an override is none.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except Exception as error:  # Hydra's parser raises what its grammar's library raises
        raise ConfigError(f"{' '.join(overrides)}: {error}") from error
    return [Cell(point) for point in itertools.product(*map(_choices, parsed))]


def _choices(override: Override) -> list[str]:
    key = override.get_key_element()
    if override.is_sweep_override():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    if override.key_or_group in ("model", "attention", "model.name") and isinstance(override.value(), list):
        return [f"{key}={value}" for value in override.value()]
    return [override.input_line]
