"""Groups runs that differ only by seed: mean accuracy with its confidence interval, names, and the baseline."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from scipy.special import stdtrit

from fvit.reports.runs.collect import Run, as_text

ACCURACY = "val/acc1"
# Keys that do not affect the outcome.
_NEUTRAL = ("title", "output_dir", "seed", "logger", "ckpt_path")
# Overrides that are not hyperparameters, or have a column of their own.
_NOT_SETTINGS = {*_NEUTRAL, "model.name", "hydra", "callbacks", "debug", "hardware", "quiet"}
# Changed by model.match to give a model the cost of the same one with softmax.
_MATCHED = ("model.embed_dim", "model.num_heads", "model.depth")


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
    """A row of the leaderboard.

    Attributes:
        runs: all with this config.
        settings: values that distinguish it from other groups, by dotted key.
        baseline: the group that differs from it only by its attention.
    """

    runs: tuple[Run, ...]
    settings: dict[str, Any] = field(default_factory=dict)
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

    @property
    def attention(self) -> str:
        """Option of the config group `attention`, or the name in the config."""
        attention = self._model.get("attention")
        name = attention.get("name") if isinstance(attention, dict) else attention
        return str(self.runs[0].choices.get("attention") or name or "–")

    @property
    def model(self) -> str:
        """Option of the config group `model`, or timm's name."""
        option = self.runs[0].choices.get("model")
        named = any(text.startswith("model.name=") for text in self.runs[0].overrides)
        return str(self._model.get("name", "–") if named or option in (None, "timm") else option)

    @property
    def data(self) -> str:
        return str(self.config.get("data", {}).get("name", "–"))

    @property
    def label(self) -> str:
        """Attention and settings, which together are unique."""
        short = short_names(self.settings)
        model = [self.model] if "model" in self.settings else []
        settings = [f"{short[key]}={as_text(value)}" for key, value in self.settings.items() if key != "model"]
        return " ".join([self.attention, *model, *settings])

    def values(self, metric: str) -> dict[int, float]:
        """By seed, of the finished runs that have the metric."""
        return {seed: run.metrics[metric] for seed, run in self.finished.items() if metric in run.metrics}

    def mean(self, metric: str) -> MeanCI | None:
        return mean_ci(list(self.values(metric).values()))

    def difference(self) -> MeanCI | None:
        """In accuracy."""
        return self.baseline and paired_difference(self.values(ACCURACY), self.baseline.values(ACCURACY))

    @property
    def _model(self) -> dict[str, Any]:
        return self.config.get("model") or {}


def _newest_by_seed(runs: Iterable[Run]) -> dict[int, Run]:
    """A repeated seed says nothing about the variance between seeds."""
    return {run.seed: run for run in sorted(runs, key=lambda run: run.last_written)}


def group_runs(runs: Iterable[Run], baseline: str) -> list[Group]:
    """The groups by descending accuracy, those without one last. Runs that trained no model are in none.

    Args:
        runs: from any folders.
        baseline: attention of the groups with which the others are compared.
    """
    by_config: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        if "model" in run.config:
            by_config.setdefault(frozenset(_without(_NEUTRAL, run).items()), []).append(run)
    groups = [Group(tuple(members)) for members in by_config.values()]
    _find_settings(groups)
    _find_baselines(groups, baseline)

    def rank(group: Group) -> tuple[float, str]:
        accuracy = group.mean(ACCURACY)
        return (-accuracy.mean if accuracy else 1.0), group.label

    return sorted(groups, key=rank)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """For each dotted key its shortest ending that no other key has."""
    keys = list(keys)
    short = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
        others = [f".{other}" for other in keys if other != key]
        short[key] = next(end for end in endings if end == key or not any(o.endswith(f".{end}") for o in others))
    return short


def _without(ignored: Sequence[str], run: Run) -> dict[str, str]:
    """The flat config without the `ignored` keys and the keys inside them."""
    inside = tuple(f"{key}." for key in ignored)
    return {key: text for key, text in run.flat_config.items() if key not in ignored and not key.startswith(inside)}


def _find_baselines(groups: Sequence[Group], attention: str) -> None:
    def all_but_attention(group: Group) -> frozenset[tuple[str, str]]:
        matched = _MATCHED if group.config["model"].get("match") else ()
        return frozenset(_without((*_NEUTRAL, "model.attention", *matched), group.runs[0]).items())

    references: dict[frozenset[tuple[str, str]], list[Group]] = {}
    for group in groups:
        if group.attention == attention:
            references.setdefault(all_but_attention(group), []).append(group)
    for group in groups:
        # Several references differ in options of their attention: none of them is the baseline.
        match references.get(all_but_attention(group), []):
            case [reference] if group.attention != attention:
                group.baseline = reference


def _find_settings(groups: Sequence[Group]) -> None:
    """What the command lines set differently, and what else differs between groups that this leaves alike."""
    overridden = [text.lstrip("+~").partition("=")[0] for one in groups for run in one.runs for text in run.overrides]
    hyperparameters = [key for key in overridden if not {key, re.split(r"[./@]", key)[0]} & _NOT_SETTINGS]
    _add_settings(groups, [key for key in dict.fromkeys(["model", "data", *hyperparameters]) if key != "attention"])
    by_label: dict[str, list[Group]] = {}
    for group in groups:
        by_label.setdefault(group.label, []).append(group)
    keys: dict[str, None] = {}
    for alike in by_label.values():
        configs = [_without(_NEUTRAL, group.runs[0]) for group in alike]
        for key in dict.fromkeys(key for config in configs for key in config):
            if len({config.get(key) for config in configs}) > 1:
                keys[key] = None
    _add_settings(groups, list(keys))


def _add_settings(groups: Sequence[Group], keys: Sequence[str]) -> None:
    for key in keys:
        values = [_value(group, key) for group in groups]
        if len(set(map(as_text, values))) > 1:
            for group, value in zip(groups, values, strict=True):
                group.settings[key] = value


def _value(group: Group, key: str) -> Any:
    """The chosen option of the config group `key`, or the value in the config; None if there is neither."""
    run = group.runs[0]
    if key == "model":
        return group.model
    if key in run.choices:
        return run.choices[key]
    if key == "data":
        return group.data
    value: Any = run.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
