"""Runs that differ by their seed alone are one row: what it is called, and which row is its baseline."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fvit.reports.runs.flat import flatten, show
from fvit.reports.runs.gather import Run
from fvit.reports.runs.statistics import Estimate, estimate, paired

ACCURACY = "val/acc1"
# What does not change a run's outcome.
_BESIDE = ("title", "output_dir", "seed", "logger", "ckpt_path")
# Overrides that are no hyperparameters, or have a column of their own.
_NO_SETTINGS = (*_BESIDE, "attention", "model", "model.name", "hydra", "callbacks", "debug", "hardware", "quiet")


@dataclass
class Group:
    """One row.

    Attributes:
        runs: all with this configuration.
        settings: what was set for some rows otherwise than for others.
        baseline: the row with which it is compared.
    """

    runs: tuple[Run, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    baseline: "Group | None" = None

    @cached_property
    def counted(self) -> dict[int, Run]:
        """The finished run of each seed; of several the one that was written last."""
        return _newest(run for run in self.runs if run.finished)

    @property
    def drawn(self) -> dict[int, Run]:
        """The run of each seed whose curve is shown: one that counts, or, where none has finished, the newest."""
        return self.counted or _newest(self.runs)

    @property
    def config(self) -> dict[str, Any]:
        """Of one of its runs."""
        return self.runs[0].config

    @property
    def attention(self) -> str:
        """The option of its group, or what the configuration says."""
        told = self._model.get("attention")
        return str(self._choice("attention") or (told.get("name") if isinstance(told, dict) else told) or "–")

    @property
    def model(self) -> str:
        """The option of its group, or what timm calls it."""
        choice = self._choice("model")
        named = any(text.startswith("model.name=") for text in self.runs[0].overrides)
        return str(self._model.get("name", "–") if named or choice in (None, "timm") else choice)

    @property
    def data(self) -> str:
        """The source of its images."""
        return str(self.config.get("data", {}).get("name", "–"))

    @property
    def label(self) -> str:
        """For people, beside other rows."""
        short = short_names(self.settings)
        told = [f"{short[key]}={show(value)}" for key, value in self.settings.items() if key != "model"]
        model = [self.model] if "model" in self.settings else []
        return " ".join([self.attention, *model, *told])

    def values(self, metric: str) -> dict[int, float]:
        """By seed, of the finished runs that have it."""
        return {seed: run.metrics[metric] for seed, run in self.counted.items() if metric in run.metrics}

    def estimate(self, metric: str) -> Estimate | None:
        """Over the seeds."""
        return estimate(list(self.values(metric).values()))

    def difference(self) -> Estimate | None:
        """To the baseline's accuracy, over the seeds that both have."""
        return None if self.baseline is None else paired(self.values(ACCURACY), self.baseline.values(ACCURACY))

    @property
    def _model(self) -> dict[str, Any]:
        return self.config.get("model") or {}

    def _choice(self, group: str) -> str | None:
        return self.runs[0].choices.get(group)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted key, or more of it where that would be another's as well."""
    keys = list(keys)
    short = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
        short[key] = next(
            tail for tail in tails if tail == key or not any(f".{o}".endswith(f".{tail}") for o in keys if o != key)
        )
    return short


def _newest(runs: Iterable[Run]) -> dict[int, Run]:
    """By seed: a seed that was run again tells nothing of how seeds differ."""
    return {run.seed: run for run in sorted(runs, key=lambda run: run.touched)}


def group(runs: Iterable[Run], baseline: str) -> list[Group]:
    """The rows, the most accurate first, those without accuracy last. Runs that train no model are in none.

    Args:
        runs: of any folders.
        baseline: the attention of the rows with which those that are otherwise the same are compared.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        if "model" in run.config:
            found.setdefault(_key(run, _BESIDE), []).append(run)
    groups = [Group(tuple(members)) for members in found.values()]
    _name(groups)
    _compare(groups, baseline)
    return sorted(groups, key=_rank)


def _rank(one: Group) -> tuple[float, str]:
    accuracy = one.estimate(ACCURACY)
    return (-accuracy.mean if accuracy else 1.0), one.label


def _key(run: Run, left_out: Sequence[str]) -> str:
    """The configuration as text, the run's folder left out wherever a path holds it."""
    flat = flatten({key: value for key, value in run.config.items() if key not in left_out}, run.config)
    return json.dumps(flat, sort_keys=True)


def _compare(groups: Sequence[Group], baseline: str) -> None:
    """Give each row the one which has the baseline's attention and otherwise the same configuration."""
    references: dict[str, list[Group]] = {}
    for one in groups:
        if one.attention == baseline:
            references.setdefault(_surroundings(one), []).append(one)
    for one in groups:
        # Several of them can differ by the baseline's own options; then none is the baseline.
        match references.get(_surroundings(one), []):
            case [reference] if one.attention != baseline:
                one.baseline = reference


def _surroundings(one: Group) -> str:
    model = {key: value for key, value in one.config.get("model", {}).items() if key != "attention"}
    if model.get("match"):
        # Its width was changed so that it costs what softmax attention does.
        model = {key: value for key, value in model.items() if key not in ("embed_dim", "num_heads", "depth")}
    run = one.runs[0]
    return _key(run, (*_BESIDE, "model")) + json.dumps(model, sort_keys=True)


def _name(groups: Sequence[Group]) -> None:
    """Tell rows apart: by what was set on the command line, and where that is not enough, by what differs in them."""
    asked = [text.lstrip("+~").partition("=")[0] for one in groups for run in one.runs for text in run.overrides]
    keys = [key for key in dict.fromkeys(asked) if not _belongs(key, _NO_SETTINGS)]
    _set(groups, ["model", "data", *(key for key in keys if key != "data")])
    alike: dict[str, list[Group]] = {}
    for one in groups:
        alike.setdefault(one.label, []).append(one)
    further: dict[str, None] = {}
    for those in alike.values():
        flats = [flatten({k: v for k, v in one.config.items() if k not in _BESIDE}, one.config) for one in those]
        for key in dict.fromkeys(key for flat in flats for key in flat):
            if len({flat.get(key) for flat in flats}) > 1:
                further[key] = None
    _set(groups, list(further))


def _belongs(key: str, owners: Sequence[str]) -> bool:
    """Whether `key` is one of `owners`, or inside one that is not a model's."""
    return key in owners or re.split(r"[./@]", key)[0] in set(owners) - {"model", "attention"}


def _set(groups: Sequence[Group], keys: Sequence[str]) -> None:
    for key in keys:
        values = [_value(one, key) for one in groups]
        if len({show(value) for value in values}) > 1:
            for one, value in zip(groups, values, strict=True):
                one.settings[key] = value


def _value(one: Group, key: str) -> Any:
    """What a row has under an override's key: an option of a group, or a value of its configuration, or None."""
    run = one.runs[0]
    if key == "model":
        return one.model
    if key in run.choices:
        return run.choices[key]
    value: Any = run.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return one.data if key == "data" else value
