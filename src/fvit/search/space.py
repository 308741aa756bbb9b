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
    """The space, and the overrides that all trials share.

    Args:
        params: ``hydra.sweeper.params``: an override's value, or a list of values to choose from.
        arguments: the command line's overrides, each of which takes the place of the parameter with its key.
        loader: knows the options of config groups, for ``glob(*)``.

    Raises:
        ConfigError: nothing is left to search, or a range is one that cannot be searched.
    """
    lines = [f"{key}={_choice(value) if isinstance(value, list) else value}" for key, value in params.items()]
    overrides: dict[str, Override] = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides([*lines, *arguments]):
        overrides.pop(_name(override), None)  # the later one also stands later
        overrides[_name(override)] = override
    space = {
        override.get_key_element(): _distribution(override)
        for override in overrides.values()
        if override.is_sweep_override()
    }
    if not space:
        raise ConfigError(
            "there is nothing to search: give a range such as 'optimizer.lr=tag(log,interval(1e-4,1e-2))', "
            "or hydra.sweeper.params"
        )
    return space, [override.input_line for override in overrides.values() if not override.is_sweep_override()]


def overrides(params: Mapping[str, Any]) -> list[str]:
    """A trial's parameters as Hydra's overrides; floats are those of the study to the last bit."""
    return [f"{name}={value}" for name, value in params.items()]


def covering(space: Space) -> list[list[str]]:
    """Overrides of a few trials in which every choice occurs at least once."""
    choices = {name: _examples(distribution) for name, distribution in space.items()}
    rows = max(map(len, choices.values()))
    return [overrides({name: values[row % len(values)] for name, values in choices.items()}) for row in range(rows)]


def _choice(values: list[Any]) -> str:
    texts = ["null" if value is None else str(value) for value in values]
    return ",".join(texts) if len(texts) > 1 else f"choice({texts[0]})"  # Hydra's choice() refuses null


def _name(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _distribution(override: Override) -> BaseDistribution:
    sweep = override.value()
    tags = getattr(sweep, "tags", set())
    if unknown := tags - {"log"} or (tags if override.is_choice_sweep() else set()):
        raise ConfigError(
            f"{override.input_line}: the tag {', '.join(sorted(unknown))} has no effect here; leave it out"
        )
    try:
        if isinstance(sweep, IntervalSweep):
            kind = IntDistribution if isinstance(sweep.start, int) and isinstance(sweep.end, int) else FloatDistribution
            return kind(sweep.start, sweep.end, log="log" in tags)
        if isinstance(sweep, RangeSweep):
            return _steps(sweep, log="log" in tags)
        # As overrides write them: a database keeps texts, but neither lists nor dicts.
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    except ValueError as error:
        raise ConfigError(f"{override.input_line} cannot be searched: {error}") from None


def _steps(sweep: RangeSweep, log: bool) -> BaseDistribution:
    """Hydra leaves the end out; Optuna has it belong to the range."""
    values = list(sweep.range())
    if not values:
        raise ValueError("the range is empty")
    low, high, step = min(values), max(values), abs(sweep.step)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, step=step, log=log)
    if log:
        raise ValueError("a range of floats has steps of one size; take tag(log,interval(…)), or choice(…)")
    return FloatDistribution(low, high, step=step)


def _examples(distribution: BaseDistribution) -> Sequence[Any]:
    return distribution.choices if isinstance(distribution, CategoricalDistribution) else [distribution.low]
