"""From the rows of a benchmark to how each mechanism grows with the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from fvit.cost.measure import Row
from fvit.cost.scaling import Estimate, Samples, crossover, exponent


@dataclass(frozen=True)
class Trend:
    """How one mechanism in one model grows with the number of tokens N.

    Attributes:
        name: model, attention, and how they were run.
        tokens: the sizes that were measured, from the least to the most.
        forward: exponent of the time of one image in inference.
        forward_end: the same between the two largest sizes, where a constant part weighs least.
        training: exponent of the time of a training step.
        training_end: the same between the two largest sizes.
        saved: exponent of what is kept for the backward pass.
        overtakes: N from which on inference is faster than with the baseline's attention; None for the baseline.
        overtakes_in_training: the same of a training step.
    """

    name: str
    tokens: tuple[int, ...]
    forward: Estimate | None
    forward_end: Estimate | None
    training: Estimate | None
    training_end: Estimate | None
    saved: Estimate | None
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
        if row.tokens is not None:
            series.setdefault(key, []).append(row)
    found = []
    for (model, attention, manner), mine in series.items():
        other = series.get((model, baseline, manner), []) if attention != baseline else []
        forward, training = _times(mine, "latency_ms"), _times(mine, "train_ms")
        trend = Trend(
            mine[0].candidate.name,
            tuple(sorted({row.tokens for row in mine})),
            exponent(forward),
            exponent(_largest(forward)),
            exponent(training),
            exponent(_largest(training)),
            exponent({row.tokens: [row.values["saved_mib"]] for row in mine if "saved_mib" in row.values}),
            crossover(forward, _times(other, "latency_ms")),
            crossover(training, _times(other, "train_ms")),
        )
        if trend.forward or trend.training or trend.saved:
            found.append(trend)
    return found


def _times(rows: Sequence[Row], name: str) -> Samples:
    return {row.tokens: row.runs[name].seconds for row in rows if name in row.runs}


def _largest(samples: Samples) -> Samples:
    """The two largest sizes."""
    return {size: samples[size] for size in sorted(samples)[-2:]}
