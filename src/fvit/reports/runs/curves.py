"""Learning curves from csv/metrics.csv, averaged over the seeds of a row."""

import csv
import math
from collections.abc import Sequence
from typing import Any

from fvit.reports.runs.gather import Run
from fvit.reports.runs.groups import Group
from fvit.reports.runs.statistics import estimate

# Metric, title, unit's factor.
METRICS = (
    ("val/acc1", "Validation accuracy, %", 100.0),
    ("val/loss", "Validation loss", 1.0),
    ("train/loss", "Training loss", 1.0),
)
# More of them are no finer on a screen.
_POINTS = 120

History = dict[str, dict[int, float]]


def read_history(run: Run) -> History:
    """Each metric's values by the number of images seen. What a resumed run measured again counts.

    Lightning counts optimizer steps from 0. Lines that were cut off or are damaged are left out.
    """
    path = run.folder / "csv" / "metrics.csv"
    batch = run.config.get("global_batch_size")
    history: History = {metric: {} for metric, _, _ in METRICS}
    if batch is None or not path.is_file():
        return history
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            for metric, values in history.items():
                if text := row.get(metric):
                    try:
                        images, value = (int(row["step"]) + 1) * batch, float(text)
                    except (TypeError, ValueError, KeyError):
                        continue
                    if math.isfinite(value):
                        values[images] = value
    return history


def curves(groups: Sequence[Group]) -> dict[str, list[dict[str, Any] | None]]:
    """For each metric a curve a row, None where it has none: ``x``, ``y`` and with several seeds ``low``, ``high``."""
    found: dict[str, list[dict[str, Any] | None]] = {metric: [] for metric, _, _ in METRICS}
    for one in groups:
        histories = [read_history(run) for run in one.drawn.values()]
        for metric, _, factor in METRICS:
            found[metric].append(average([history[metric] for history in histories], factor))
    return found


def average(histories: Sequence[dict[int, float]], factor: float = 1.0) -> dict[str, Any] | None:
    """The mean where all of them have a value, for it would jump where a seed ends; None if there is no such place."""
    histories = [history for history in histories if history]
    if not histories:
        return None
    shared = _thin(sorted(set.intersection(*(set(history) for history in histories))))
    found = [estimate([history[x] * factor for history in histories]) for x in shared]
    curve: dict[str, Any] = {"x": shared, "y": [_short(one.mean) for one in found], "n": len(histories)}
    if len(histories) > 1:
        curve["low"] = [_short(one.mean - one.half) for one in found]
        curve["high"] = [_short(one.mean + one.half) for one in found]
    return curve if shared else None


def _thin(places: list[int]) -> list[int]:
    """At most `_POINTS` of them, evenly, the first and the last among them."""
    if len(places) <= _POINTS:
        return places
    return [places[round(i * (len(places) - 1) / (_POINTS - 1))] for i in range(_POINTS)]


def _short(value: float) -> float:
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value)
