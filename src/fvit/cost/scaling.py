"""How cost grows with the number of tokens: its exponent, and where one mechanism overtakes another."""

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fvit.cost.timing import FEWEST

Samples = Mapping[int, Sequence[float]]
"""Measured values (seconds, bytes) by the size of the image, in tokens or pixels."""

DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, by resampling the measured values.

    The interval is None where some size has fewer than `FEWEST` values, which do not tell how far they scatter.
    """

    value: float
    interval: tuple[float, float] | None


def exponent(samples: Samples, seed: int = 0) -> Estimate | None:
    """b of cost ≈ a·N^b, by least squares through the medians in logarithms; None for fewer than two sizes.

    Where a constant part dominates small sizes, b is below that of the mechanism; it grows with the sizes measured.
    """
    sizes = sorted(samples)
    if len(sizes) < 2:
        return None

    def slope(medians: Mapping[int, float]) -> float:
        line = statistics.linear_regression([math.log(n) for n in sizes], [math.log(medians[n]) for n in sizes])
        return line.slope

    return _bootstrap(slope, [samples], seed)


def crossover(ours: Samples, theirs: Samples, seed: int = 0) -> Estimate | None:
    """The size from which on `ours` costs less than `theirs`; None for fewer than two sizes in common.

    Between the two sizes where the order changes last, interpolated in logarithms. 0 where ours costs less at all sizes
    that both have, infinity where it costs more at the largest: what lies beyond was not measured.
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
    """The statistic of all medians, and its 95 % interval over resampled values."""
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
