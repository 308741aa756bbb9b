"""Learning curves from csv/metrics.csv, averaged over the seeds of a group."""

import csv
import math
from collections.abc import Sequence
from typing import Any

from fvit.reports.runs.collect import Run
from fvit.reports.runs.groups import Group, mean_ci

# Metric, title, and the factor that converts to its unit.
METRICS = (
    ("val/acc1", "Validation accuracy, %", 100.0),
    ("val/loss", "Validation loss", 1.0),
    ("train/loss", "Training loss", 1.0),
)
_MAX_POINTS = 120


def read_history(run: Run) -> dict[str, dict[int, float]]:
    """The values of each metric by the number of images seen; the later value where a resumed run repeats a step.

    Damaged lines are skipped.
    """
    path = run.folder / "csv" / "metrics.csv"
    batch = run.config.get("global_batch_size")
    history: dict[str, dict[int, float]] = {metric: {} for metric, _, _ in METRICS}
    if batch is None or not path.is_file():
        return history
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            for metric, values in history.items():
                if text := row.get(metric):
                    try:
                        images, value = (int(row["step"]) + 1) * batch, float(text)  # Lightning counts from 0
                    except (TypeError, ValueError, KeyError):
                        continue
                    if math.isfinite(value):
                        values[images] = value
    return history


def mean_curves(groups: Sequence[Group]) -> dict[str, list[dict[str, Any] | None]]:
    """For each metric the `mean_curve` of each group."""
    curves: dict[str, list[dict[str, Any] | None]] = {metric: [] for metric, _, _ in METRICS}
    for group in groups:
        histories = [read_history(run) for run in group.drawn.values()]
        for metric, _, factor in METRICS:
            curves[metric].append(mean_curve([history[metric] for history in histories], factor))
    return curves


def mean_curve(histories: Sequence[dict[int, float]], factor: float = 1.0) -> dict[str, Any] | None:
    """``x``, the mean ``y`` of ``n`` histories and, for several, its 95 % interval ``low`` to ``high``.

    Only at places where all have a value, since the mean would jump where a seed ends; None if there are none.
    """
    histories = [history for history in histories if history]
    if not histories:
        return None
    shared = _thin_out(sorted(set.intersection(*map(set, histories))))
    if not shared:
        return None
    means = [mean_ci([history[x] * factor for history in histories]) for x in shared]
    curve: dict[str, Any] = {"x": shared, "y": [_rounded(one.mean) for one in means], "n": len(histories)}
    if len(histories) > 1:
        curve["low"] = [_rounded(one.mean - one.half_width) for one in means]
        curve["high"] = [_rounded(one.mean + one.half_width) for one in means]
    return curve


def _thin_out(places: list[int]) -> list[int]:
    """At most `_MAX_POINTS`, evenly spaced, including the first and the last."""
    if len(places) <= _MAX_POINTS:
        return places
    return [places[round(i * (len(places) - 1) / (_MAX_POINTS - 1))] for i in range(_MAX_POINTS)]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value)
