"""Groups runs that differ only by seed, one ranking per dataset: means with confidence intervals, and the baseline."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from scipy.special import stdtrit

from fvit.config.naming import short_names
from fvit.reports.runs.collect import Run
from fvit.reports.runs.settings import (
    Settings,
    attention_of,
    find_common,
    find_listed,
    find_settings,
    identity,
    identity_but_attention,
    model_of,
    setting_text,
    source_labels,
    source_of,
)

ACCURACY, TEST = "val/acc1", "test/acc1"


@dataclass(frozen=True)
class MeanCI:
    """The mean of `n` values; its 95 % confidence interval is ± `half_width`, or None for a single value."""

    mean: float
    half_width: float | None
    n: int


def mean_ci(values: Sequence[float]) -> MeanCI | None:
    """Mean and Student's t interval; None without values."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return MeanCI(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return MeanCI(mean, _t_quantile(n - 1) * math.sqrt(variance / n), n)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> MeanCI | None:
    """Mean of ours − theirs over the seeds in both; None if there are none."""
    return mean_ci([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


@cache
def _t_quantile(degrees_of_freedom: int) -> float:
    return float(stdtrit(degrees_of_freedom, 0.975))


@dataclass
class Group:
    """A row of a leaderboard.

    Attributes:
        runs: all with this configuration that finished or are running.
        settings: the values that distinguish it from the other groups of its dataset.
        listed: of these, the ones to name, as of `find_listed`.
        names: short ones of all these keys.
        several_models: whether other groups have another model.
        baseline: the group that differs from it only by its attention.
    """

    runs: tuple[Run, ...]
    settings: Settings = field(default_factory=dict)
    listed: Settings = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    several_models: bool = False
    baseline: "Group | None" = None

    @cached_property
    def finished(self) -> dict[int, Run]:
        """The finished run of each seed."""
        return _newest_by_seed(run for run in self.runs if run.finished)

    @property
    def drawn(self) -> dict[int, Run]:
        """The runs whose curves are shown: the finished ones, or all if there are none."""
        return self.finished or _newest_by_seed(self.runs)

    @property
    def config(self) -> dict[str, Any]:
        return self.runs[0].config

    @cached_property
    def attention(self) -> str:
        return attention_of(self.runs[0])

    @cached_property
    def model(self) -> str:
        return model_of(self.runs[0])

    @property
    def settings_text(self) -> str:
        """``lr=0.001 augment=deit``."""
        return " ".join(f"{self.names[key]}={setting_text(value)}" for key, value in self.listed.items())

    @property
    def label(self) -> str:
        """Attention, model where there are several, and settings."""
        return " ".join(filter(None, [self.attention, self.model * self.several_models, self.settings_text]))

    def values(self, metric: str) -> dict[int, float]:
        """By seed, of the finished runs that have the metric."""
        return {seed: run.metrics[metric] for seed, run in self.finished.items() if metric in run.metrics}

    def mean(self, metric: str) -> MeanCI | None:
        return mean_ci(list(self.values(metric).values()))

    def difference(self, metric: str) -> MeanCI | None:
        """To the baseline, paired by seed."""
        return self.baseline and paired_difference(self.values(metric), self.baseline.values(metric))


@dataclass(frozen=True)
class Ranking:
    """The groups of one dataset.

    Attributes:
        data: its name.
        groups: by descending accuracy, those without one last.
        common: the settings that most groups share, by short name.
    """

    data: str
    groups: list[Group]
    common: Settings

    def ranked(self, metric: str, less_is_better: bool = False) -> list[Group]:
        """The groups by another metric."""

        def rank(group: Group) -> tuple[bool, float, str]:
            found = group.mean(metric)
            return found is None, (found.mean if less_is_better else -found.mean) if found else 0.0, group.label

        return sorted(self.groups, key=rank)


def rank_runs(runs: Iterable[Run], baseline: str) -> list[Ranking]:
    """A ranking per dataset, the one with most runs first. Only runs that can take part are in one.

    Args:
        runs: from any folders.
        baseline: attention of the groups with which the others are compared.
    """
    by_source: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        if run.takes_part:
            by_source[source_of(run)].append(run)
    labels = source_labels(by_source)
    by_size = sorted(by_source, key=lambda source: (-len(by_source[source]), labels[source]))
    return [_rank(labels[source], by_source[source], baseline) for source in by_size]


def _rank(data: str, runs: Sequence[Run], baseline: str) -> Ranking:
    by_config: dict[frozenset[tuple[str, str]], list[Run]] = defaultdict(list)
    for run in runs:
        by_config[frozenset(identity(run).items())].append(run)
    groups = [Group(tuple(members)) for members in by_config.values()]
    first = [group.runs[0] for group in groups]
    found = find_settings(first)
    names = short_names(found[0])
    several_models = len({group.model for group in groups}) > 1
    for group, settings, listed in zip(groups, found, find_listed(first, found), strict=True):
        group.settings, group.listed, group.names, group.several_models = settings, listed, names, several_models
    _find_baselines(groups, baseline)
    common = {names[key]: value for key, value in find_common(found).items() if value is not None}
    ranking = Ranking(data, groups, common)
    groups[:] = ranking.ranked(ACCURACY)
    return ranking


def _newest_by_seed(runs: Iterable[Run]) -> dict[int, Run]:
    """A repeated seed says nothing about the variance between seeds."""
    return {run.seed: run for run in sorted(runs, key=lambda run: run.last_written)}


def _find_baselines(groups: Sequence[Group], attention: str) -> None:
    references: dict[frozenset[tuple[str, str]], list[Group]] = defaultdict(list)
    for group in groups:
        if group.attention == attention:
            references[identity_but_attention(group.runs[0])].append(group)
    for group in groups:
        # Several references differ in options of their attention: none of them is the baseline.
        match references.get(identity_but_attention(group.runs[0]), []):
            case [reference] if group.attention != attention:
                group.baseline = reference
