"""From the rows of a benchmark to how each mechanism grows with the tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fvit.cost.measure import Row
from fvit.cost.scaling import Estimate, Samples, crossover, exponent


@dataclass(frozen=True)
class Trend:
    """How one mechanism in one model grows with the number of tokens N.

    Attributes:
        name: model, attention, and how they were run.
        unit: what N counts: pixels of a model that has no number of tokens of its own. Exponents are comparable all the
            same, since a patch always has as many pixels.
        sizes: N as measured, from the least to the most.
        forward: exponent of the time of one image in inference.
        forward_end: the same between the two largest sizes, where a constant part weighs least.
        training: exponent of the time of a training step.
        training_end: the same between the two largest sizes.
        saved: exponent of what is kept for the backward pass.
        peak: exponent of what a forward pass adds to memory at its height.
        training_peak: the same of a training step.
        overtakes: N from which on inference is faster than with the baseline's attention; None for the baseline.
        overtakes_in_training: the same of a training step.
    """

    name: str
    unit: Literal["tokens", "pixels"]
    sizes: tuple[int, ...]
    forward: Estimate | None
    forward_end: Estimate | None
    training: Estimate | None
    training_end: Estimate | None
    saved: Estimate | None
    peak: Estimate | None
    training_peak: Estimate | None
    overtakes: Estimate | None
    overtakes_in_training: Estimate | None


def trends(rows: Sequence[Row], baseline: str) -> list[Trend]:
    """One for each model and mechanism of which time or memory was measured at two sizes or more.

    Args:
        rows: what was found.
        baseline: the attention to be overtaken, in the same model run in the same way.
    """
    series: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        key = (row.candidate.model, row.candidate.attention, row.candidate.conditions.manner)
        if row.values:
            series.setdefault(key, []).append(row)
    found = []
    for (model, attention, manner), mine in series.items():
        other = series.get((model, baseline, manner), []) if attention != baseline else []
        in_tokens = all(row.tokens is not None for row in [*mine, *other])
        size = _tokens if in_tokens else _pixels
        forward, training = _times(mine, "latency_ms", size), _times(mine, "train_ms", size)
        trend = Trend(
            mine[0].candidate.name,
            "tokens" if in_tokens else "pixels",
            tuple(sorted({size(row) for row in mine})),
            exponent(forward),
            exponent(_largest(forward)),
            exponent(training),
            exponent(_largest(training)),
            exponent(_memory(mine, "saved_mib", size)),
            exponent(_memory(mine, "peak_mib", size)),
            exponent(_memory(mine, "train_peak_mib", size)),
            crossover(forward, _times(other, "latency_ms", size)),
            crossover(training, _times(other, "train_ms", size)),
        )
        if any((trend.forward, trend.training, trend.saved, trend.peak, trend.training_peak)):
            found.append(trend)
    return found


def _tokens(row: Row) -> int:
    return row.tokens


def _pixels(row: Row) -> int:
    return row.candidate.conditions.res**2


def _times(rows: Sequence[Row], name: str, size: Callable[[Row], int]) -> Samples:
    return {size(row): row.runs[name].seconds for row in rows if name in row.runs}


def _memory(rows: Sequence[Row], name: str, size: Callable[[Row], int]) -> Samples:
    """Peaks on a CPU are good to a MiB: what is less is none."""
    least = 0.0 if name == "saved_mib" else 1.0
    return {size(row): [row.values[name]] for row in rows if row.values.get(name, 0.0) > least}


def _largest(samples: Samples) -> Samples:
    """The two largest sizes."""
    return {size: samples[size] for size in sorted(samples)[-2:]}
