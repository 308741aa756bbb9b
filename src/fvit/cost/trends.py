"""From the rows of a benchmark to how each mechanism grows with the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from fvit.cost.measure import Row
from fvit.cost.scaling import Estimate, Samples, crossover, exponent


@dataclass(frozen=True)
class Trend:
    """How one mechanism in one model grows with the number of tokens N.

    Attributes:
        label: model, attention, and how they were run.
        forward: exponent of the time of one image in inference.
        training: exponent of the time of a training step.
        saved: exponent of what is kept for the backward pass.
        overtakes: N from which on inference is faster than with the baseline's attention.
        overtakes_in_training: the same of a training step.
    """

    label: str
    forward: Estimate | None
    training: Estimate | None
    saved: Estimate | None
    overtakes: Estimate | None
    overtakes_in_training: Estimate | None


def trends(rows: Sequence[Row], baseline: str) -> list[Trend]:
    """One for each model and mechanism that was measured at two sizes or more."""
    series: dict[tuple[str, str, str, bool], list[Row]] = {}
    for row in rows:
        c = row.candidate
        if row.tokens is not None:
            series.setdefault((c.model, c.attention, c.precision, c.compiled), []).append(row)
    found = []
    for (model, attention, precision, compiled), mine in series.items():
        other = series.get((model, baseline, precision, compiled), []) if attention != baseline else []
        trend = Trend(
            f"{mine[0].candidate.model} {attention}" + mine[0].candidate.manner,
            exponent(_times(mine, "latency_ms")),
            exponent(_times(mine, "train_ms")),
            exponent({row.tokens: [row.values["saved_mib"]] for row in mine if "saved_mib" in row.values}),
            crossover(_times(mine, "latency_ms"), _times(other, "latency_ms")),
            crossover(_times(mine, "train_ms"), _times(other, "train_ms")),
        )
        if trend.forward or trend.training or trend.saved:
            found.append(trend)
    return found


def _times(rows: Sequence[Row], name: str) -> Samples:
    return {row.tokens: row.runs[name].seconds for row in rows if name in row.runs}
