"""A grid of models in one command: what `fvit-bench` measures side by side."""

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from fvit.config import validation
from fvit.config.errors import ConfigError
from fvit.config.overrides import quoted
from fvit.config.schemas.bench import Candidate


def gather(arguments: Sequence[str], own: Collection[str]) -> list[str]:
    """The command line of a task whose other overrides describe what it works on.

    An override of one of the task's `own` keys stays, and ``res=224,384`` becomes ``res=[224,384]``: there is no
    multirun in which it could mean two jobs. All others are collected into the one list ``candidates=[…]``, for
    `expand`. Flags stay.

    Raises:
        ConfigError: a multirun is asked for.
    """
    kept, collected = [], []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument in ("-m", "--multirun"):
            raise ConfigError(f"{argument} would measure apart what is to be compared; leave it out: commas suffice")
        if not equals or argument.startswith("-"):
            kept.append(argument)
        elif re.split(r"[./@]", key.lstrip("+~"))[0] not in (*own, "hydra"):
            collected.append(argument)
        elif "," in value and value[0] not in "[({'\"":
            kept.append(f"{key}=[{value}]")
        else:
            kept.append(argument)
    if collected:
        kept.append(f"candidates=[{','.join(map(quoted, collected))}]")
    return kept


@dataclass(frozen=True)
class Cell:
    """One point of a grid.

    Attributes:
        model: the option of the group `model` or the name given to timm, and what else of it varies over the grid.
        attention: the option of the group `attention`, likewise.
        options: of the model, as under `model` in a training configuration.
        refusal: why they do not fit together; None if they do.
    """

    model: str
    attention: str
    options: dict[str, Any]
    refusal: ConfigError | None = None


def expand(overrides: Sequence[str]) -> list[Cell]:
    """All points of a grid: ``attention=a,b`` and ``model.name=[a,b]`` both mean one after the other.

    A point that does not fit together is a cell with a `refusal`, beside others that do.

    Raises:
        ConfigError: an override is none or gives nothing to choose from, or no point fits together.
    """
    try:
        parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    except Exception as error:  # Hydra's parser raises what its grammar's library raises
        raise ConfigError(f"{' '.join(overrides)}: {error}") from error
    axes = [_choices(override) for override in parsed]
    varying = [len(axis) > 1 for axis in axes]
    cells = [
        _compose(point, [text for text, varies in zip(point, varying, strict=True) if varies])
        for point in itertools.product(*axes)
    ]
    if all(cell.refusal for cell in cells):
        raise cells[0].refusal
    return cells


def compose_cell(overrides: Sequence[str]) -> Cell:
    """The model of some overrides of `fvit-train`, from the groups `model` and `attention`.

    Raises:
        ConfigError: they do not fit together.
    """
    cell = _compose(overrides, ())
    if cell.refusal:
        raise cell.refusal
    return cell


def _compose(overrides: Sequence[str], varying: Sequence[str]) -> Cell:
    """The cell of some overrides, whose names tell of those that vary."""
    cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
    choices = cfg.hydra.runtime.choices
    options, refusal = {}, None
    try:
        options = validation.check(OmegaConf.masked_copy(cfg, "model"), Candidate)["model"]
    except ConfigError as error:
        refusal = error
    named = choices["model"] == "timm" or any(text.startswith("model.name=") for text in overrides)
    model = str(cfg.model.get("name")) if named else choices["model"]
    words = {"model.attention.": [choices["attention"]], "model.": [model]}
    for text in varying:
        key = text.lstrip("+~")
        owner = next((owner for owner in words if key.startswith(owner)), None)
        if owner is not None and not key.startswith("model.name="):
            words[owner].append(key.removeprefix(owner))
    return Cell(" ".join(words["model."]), " ".join(words["model.attention."]), options, refusal)


def _choices(override: Override) -> list[str]:
    key = override.get_key_element()
    if override.is_sweep_override():
        values = list(override.sweep_string_iterator())
    elif override.key_or_group in ("model", "attention", "model.name") and isinstance(override.value(), list):
        values = override.value()
    else:
        return [override.input_line]
    if not values:
        raise ConfigError(f"{override.input_line} gives nothing to measure; name one at least")
    return [f"{key}={value}" for value in values]
