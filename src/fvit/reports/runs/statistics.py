"""What several seeds say: means with their intervals, differences between pairs, and who is beaten by nobody."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from scipy.special import stdtrit


@dataclass(frozen=True)
class Estimate:
    """The mean of `n` values. Its 95 % confidence interval is ± `half`; None where a single value tells of none."""

    mean: float
    half: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and Student's interval, which takes the values for independent and normal; None without values."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, _quantile(n - 1) * math.sqrt(variance / n), n)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """The mean difference ours − theirs over the seeds that both have; None if they share none."""
    return estimate([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, gain) that no other one beats, from cheap to dear.

    One beats another if it costs no more and gains no less, and is better in one of both.
    """
    best, last, found = -math.inf, None, []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best or points[index] == last:
            best, last = points[index][1], points[index]
            found.append(index)
    return found


@cache
def _quantile(degrees: int) -> float:
    """Between minus and plus this lies 95 % of Student's distribution."""
    return float(stdtrit(degrees, 0.975))
