"""How cost grows with the number of tokens: exponents, and where one mechanism overtakes another."""

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fvit.cost.measure import Row
from fvit.cost.timing import FEWEST, Timing

Samples = Mapping[int, Sequence[float]]
"""Measured values (seconds, bytes) by image size, in tokens or pixels."""

DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval; None if some size has fewer than `FEWEST` measurements."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Trend:
    """How one mechanism in one model scales with the number of tokens N.

    Attributes:
        name: model, attention and conditions.
        unit: ``pixels`` for a model whose number of tokens changes inside it. Exponents remain comparable, because
            patches have a fixed number of pixels.
        sizes: the measured N, ascending.
        runs: the fewest runs of a step at any size; None if no step was timed.
        forward: exponent of the latency of one image in inference.
        forward_end: the same between the two largest sizes, where constant costs matter least.
        training: exponent of the time of a training step.
        training_end: the same between the two largest sizes.
        saved: exponent of the memory of activations.
        peak: exponent of the peak memory of a forward pass.
        training_peak: exponent of the peak memory of a training step.
        overtakes: N above which inference is faster than with the baseline's attention; None for the baseline.
        overtakes_in_training: the same for a training step.
    """

    name: str
    unit: Literal["tokens", "pixels"]
    sizes: tuple[int, ...]
    runs: int | None
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
    """One trend for each model and mechanism with measurements at two sizes or more.

    Args:
        rows: the outcome of `measure`.
        baseline: the attention to overtake, in the same model under the same conditions.
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
            name=mine[0].candidate.name,
            unit="tokens" if in_tokens else "pixels",
            sizes=tuple(sorted({size(row) for row in mine})),
            runs=min((len(times) for samples in (forward, training) for times in samples.values()), default=None),
            forward=exponent(forward),
            forward_end=exponent(_largest(forward)),
            training=exponent(training),
            training_end=exponent(_largest(training)),
            saved=exponent(_memory(mine, "saved_mib", size)),
            peak=exponent(_memory(mine, "peak_mib", size)),
            training_peak=exponent(_memory(mine, "train_peak_mib", size)),
            overtakes=crossover(forward, _times(other, "latency_ms", size)),
            overtakes_in_training=crossover(training, _times(other, "train_ms", size)),
        )
        if any((trend.forward, trend.training, trend.saved, trend.peak, trend.training_peak)):
            found.append(trend)
    return found


def _tokens(row: Row) -> int:
    return row.tokens


def _pixels(row: Row) -> int:
    return row.candidate.conditions.pixels


def _times(rows: Sequence[Row], name: str, size: Callable[[Row], int]) -> Samples:
    return {size(row): row.runs[name].seconds for row in rows if name in row.runs}


def _memory(rows: Sequence[Row], name: str, size: Callable[[Row], int]) -> Samples:
    """Peaks on a CPU are accurate to a MiB, and smaller ones are left out."""
    least = 0.0 if name == "saved_mib" else 1.0
    return {size(row): [row.values[name]] for row in rows if row.values.get(name, 0.0) > least}


def _largest(samples: Samples) -> Samples:
    return {size: samples[size] for size in sorted(samples)[-2:]}


def ratio(ours: Timing, theirs: Timing) -> Estimate:
    """Time relative to that of a candidate in the same turns: the median over rounds, which share disturbances."""
    quotients = Timing(tuple(a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True)))
    return Estimate(quotients.median, quotients.interval)


def exponent(samples: Samples, seed: int = 0) -> Estimate | None:
    """b of cost ≈ a·N^b, by least squares on the logarithms of medians; None for fewer than two sizes.

    Constant costs at small sizes make b smaller than that of the mechanism; it grows with the measured sizes.
    """
    sizes = sorted(samples)
    if len(sizes) < 2:
        return None

    def slope(medians: Mapping[int, float]) -> float:
        line = statistics.linear_regression([math.log(n) for n in sizes], [math.log(medians[n]) for n in sizes])
        return line.slope

    return _bootstrap(slope, [samples], seed)


def crossover(ours: Samples, theirs: Samples, seed: int = 0) -> Estimate | None:
    """The size above which `ours` costs less than `theirs`; None for fewer than two common sizes.

    Interpolated in logarithms where the order changes last. 0 if `ours` costs less at all common sizes, infinity if it
    costs more at the largest.
    """
    sizes = sorted(ours.keys() & theirs.keys())
    if len(sizes) < 2:
        return None

    def where(mine: Mapping[int, float], other: Mapping[int, float]) -> float:
        lead = [math.log(mine[n] / other[n]) for n in sizes]
        if lead[-1] >= 0:
            return math.inf
        behind = [index for index, value in enumerate(lead) if value >= 0]
        if not behind:
            return 0.0
        left = behind[-1]
        share = lead[left] / (lead[left] - lead[left + 1])
        return math.exp(math.log(sizes[left]) + share * math.log(sizes[left + 1] / sizes[left]))

    return _bootstrap(where, [ours, theirs], seed)


def _bootstrap(statistic: Callable[..., float], groups: Sequence[Samples], seed: int) -> Estimate:
    """The statistic of all medians, and its 95 % interval over resampled measurements."""
    value = statistic(*({n: statistics.median(found) for n, found in group.items()} for group in groups))
    if any(len(found) < FEWEST for group in groups for found in group.values()):
        return Estimate(value, None)
    draw = random.Random(seed)
    drawn = sorted(
        statistic(
            *(
                {n: statistics.median(draw.choices(found, k=len(found))) for n, found in group.items()}
                for group in groups
            )
        )
        for _ in range(DRAWS)
    )
    return Estimate(value, (drawn[round(0.025 * DRAWS)], drawn[round(0.975 * DRAWS) - 1]))
