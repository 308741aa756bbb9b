"""The grid of models that one fvit-bench command measures."""

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
from fvit.config.naming import mechanism
from fvit.config.overrides import quoted
from fvit.config.schemas.bench import CandidateConfig


def collect_candidates(arguments: Sequence[str], own_keys: Collection[str]) -> list[str]:
    """Collects the overrides that describe models into ``candidates=[…]``, for `expand_grid`.

    Flags and overrides of the command's `own_keys` stay. Commas in those make a list: ``res=224,384`` becomes
    ``res=[224,384]``.

    Raises:
        ConfigError: for a multirun, which would measure each model in a job of its own.
    """
    kept, candidates = [], []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument in ("-m", "--multirun"):
            raise ConfigError(f"{argument} would measure each model separately; leave it out: commas are enough")
        if not equals or argument.startswith("-"):
            kept.append(argument)
        elif re.split(r"[./@]", key.lstrip("+~"))[0] not in (*own_keys, "hydra"):
            candidates.append(argument)
        elif "," in value and value[0] not in "[({'\"":
            kept.append(f"{key}=[{value}]")
        else:
            kept.append(argument)
    if candidates:
        kept.append(f"candidates=[{','.join(map(quoted, candidates))}]")
    return kept


@dataclass(frozen=True)
class GridPoint:
    """One model of the grid.

    Attributes:
        model: option of the config group `model` or timm's name, followed by the `model.*` overrides that vary.
        attention: option of the config group `attention` or one's own class, followed by the `model.attention.*`
            overrides that vary.
        options: the section `model` of the training config.
        error: why the options are invalid together, or None.
    """

    model: str
    attention: str
    options: dict[str, Any]
    error: ConfigError | None = None


def expand_grid(overrides: Sequence[str]) -> list[GridPoint]:
    """All combinations of ``attention=a,b`` and ``model.name=[a,b]``. Invalid ones carry their `error`.

    Raises:
        ConfigError: an override cannot be parsed or has no values, or no combination is valid.
    """
    try:
        parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    except Exception as error:  # whatever Hydra's grammar library raises
        raise ConfigError(f"{' '.join(overrides)}: {error}") from error
    axes = [_values(override) for override in parsed]
    points = [
        _compose(chosen, [text for text, axis in zip(chosen, axes, strict=True) if len(axis) > 1])
        for chosen in itertools.product(*axes)
    ]
    if all(point.error for point in points):
        raise points[0].error
    return points


def compose_point(overrides: Sequence[str]) -> GridPoint:
    """The model that some overrides of `fvit-train` describe.

    Raises:
        ConfigError: the options are invalid together.
    """
    point = _compose(overrides, varying=())
    if point.error:
        raise point.error
    return point


def _compose(overrides: Sequence[str], varying: Sequence[str]) -> GridPoint:
    cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
    options, error = {}, None
    try:
        options = validation.check(OmegaConf.masked_copy(cfg, "model"), CandidateConfig)["model"]
    except ConfigError as invalid:
        error = invalid
    choices = cfg.hydra.runtime.choices
    named = choices["model"] == "timm" or any(text.startswith("model.name=") for text in overrides)
    attention = options.get("attention")
    replaced = attention and any(text.startswith("model.attention.name=") for text in overrides)
    names = {
        "model.attention.": [mechanism(None if replaced else choices["attention"], attention)],
        "model.": [str(cfg.model.get("name")) if named else choices["model"]],
    }
    for text in varying:
        key = text.lstrip("+~")
        owner = next((owner for owner in names if key.startswith(owner)), None)
        if owner and not key.startswith(("model.name=", "model.attention.name=")):
            names[owner].append(key.removeprefix(owner))
    return GridPoint(" ".join(names["model."]), " ".join(names["model.attention."]), options, error)


def _values(override: Override) -> list[str]:
    """One override per value to measure."""
    if override.is_sweep_override():
        values = list(override.sweep_string_iterator())
    elif override.key_or_group in ("model", "attention", "model.name") and isinstance(override.value(), list):
        values = override.value()
    else:
        return [override.input_line]
    if not values:
        raise ConfigError(f"{override.input_line} has no values to measure; name at least one")
    return [f"{override.get_key_element()}={value}" for value in values]
