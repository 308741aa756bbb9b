"""The search space: Hydra's sweep syntax as Optuna's distributions, and a trial's parameters as overrides."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from fvit.config.errors import ConfigError

Space = dict[str, BaseDistribution]


def parse(params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader) -> tuple[Space, list[str]]:
    """The search space, and the overrides that all trials share.

    Args:
        params: ``hydra.sweeper.params``: the values of overrides, or lists of values to choose from.
        arguments: the overrides of the command line, which replace parameters with the same key.
        loader: knows the options of config groups, for ``glob(*)``.

    Raises:
        ConfigError: there is nothing to search, or a range cannot be searched.
    """
    lines = [f"{key}={_choice(value) if isinstance(value, list) else value}" for key, value in params.items()]
    overrides: dict[str, Override] = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides([*lines, *arguments]):
        key = override.get_key_element().lstrip("+~")
        overrides.pop(key, None)  # a later override also comes later
        overrides[key] = override
    swept = [override for override in overrides.values() if override.is_sweep_override()]
    if not swept:
        raise ConfigError(
            "there is nothing to search: give a range such as 'optimizer.lr=tag(log,interval(1e-4,1e-2))', "
            "or hydra.sweeper.params"
        )
    fixed = [override.input_line for override in overrides.values() if not override.is_sweep_override()]
    return {override.get_key_element(): _distribution(override) for override in swept}, fixed


def overrides(params: Mapping[str, Any]) -> list[str]:
    """A trial's parameters as overrides; floats keep all their bits."""
    return [f"{name}={value}" for name, value in params.items()]


def covering(space: Space) -> list[list[str]]:
    """The overrides of a few trials in which every choice occurs."""
    choices = {name: _examples(distribution) for name, distribution in space.items()}
    rows = max(map(len, choices.values()))
    return [overrides({name: values[row % len(values)] for name, values in choices.items()}) for row in range(rows)]


def _choice(values: list[Any]) -> str:
    texts = ["null" if value is None else str(value) for value in values]
    return ",".join(texts) if len(texts) > 1 else f"choice({texts[0]})"  # Hydra's choice() refuses null


def _distribution(override: Override) -> BaseDistribution:
    sweep = override.value()
    tags = getattr(sweep, "tags", set())
    log = "log" in tags
    if unused := tags if override.is_choice_sweep() else tags - {"log"}:
        raise ConfigError(
            f"{override.input_line}: the tag {', '.join(sorted(unused))} has no effect here; leave it out"
        )
    try:
        if isinstance(sweep, IntervalSweep):
            kind = IntDistribution if isinstance(sweep.start, int) and isinstance(sweep.end, int) else FloatDistribution
            return kind(sweep.start, sweep.end, log=log)
        if isinstance(sweep, RangeSweep):
            return _steps(sweep, log)
        # As text, because the database stores neither lists nor dicts.
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    except ValueError as error:
        raise ConfigError(f"{override.input_line} cannot be searched: {error}") from None


def _steps(sweep: RangeSweep, log: bool) -> BaseDistribution:
    """Hydra excludes the end of a range, Optuna includes it."""
    values = list(sweep.range())
    if not values:
        raise ValueError("the range is empty")
    low, high, step = min(values), max(values), abs(sweep.step)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, step=step, log=log)
    if log:
        raise ValueError("a range of floats has steps of equal size; use tag(log,interval(…)) or choice(…)")
    return FloatDistribution(low, high, step=step)


def _examples(distribution: BaseDistribution) -> Sequence[Any]:
    return distribution.choices if isinstance(distribution, CategoricalDistribution) else [distribution.low]
