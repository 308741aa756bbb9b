"""Timing several things in one process, in turns, so that what disturbs the machine disturbs all alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fvit.cost.memory import ran_out

Step = Callable[[], object]

FEWEST = 6
"""Runs from which on their range holds the true median with at least 95 %: 5 of them do with 94 % (1 - 2 · 0.5^5)."""


@dataclass(frozen=True)
class Timing:
    """The durations of one candidate's runs, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all runs."""
        return statistics.median(self.seconds)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the median, by order statistics; None for fewer than `FEWEST` runs.

        The number of runs below the true median is binomial, whatever their distribution.
        """
        runs = sorted(self.seconds)
        if len(runs) < FEWEST:
            return None
        below, chance = 0, 0.5 ** len(runs)
        # The largest rank below which the true median lies with a chance of at most 2.5 %.
        while chance <= 0.025 and below < len(runs) // 2:
            below += 1
            chance += math.comb(len(runs), below) * 0.5 ** len(runs)
        return runs[below - 1], runs[-below]


def time_in_turns(
    steps: Mapping[str, Step],
    runs: int = 20,
    budget: float = math.inf,
    synchronise: Callable[[], None] = lambda: None,
    tell: Callable[[float], None] = lambda share: None,
) -> dict[str, Timing]:
    """Time each step `runs` times, or fewer if that takes longer than `budget` seconds a step, but at least 3 times.

    Every step runs once before to warm up. In each round all take their turn, in an order that is reversed from round
    to round, so that none always follows the same one.

    Args:
        steps: the candidates by name.
        runs: rounds.
        budget: seconds for each candidate, its warm-up left out.
        synchronise: waits until the device is done.
        tell: called after each round, with the share that is done.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    synchronise()
    order = list(steps)
    start = time.perf_counter()
    for number in range(1, runs + 1):
        for name in order:
            begin = time.perf_counter()
            steps[name]()
            synchronise()
            seconds[name].append(time.perf_counter() - begin)
        order.reverse()
        spent, limit = time.perf_counter() - start, budget * len(steps)
        tell(min(1.0, max(number / runs, spent / limit if limit else 1.0)))
        if number >= 3 and spent > limit:
            break
    return {name: Timing(tuple(found)) for name, found in seconds.items()}


def synchroniser(device: torch.device) -> Callable[[], None]:
    """What waits for `device`; nothing on a CPU."""
    return {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)


def best_batch(
    time_of: Callable[[int], float], sizes: Sequence[int], gain: float = 1.02, longest: float = math.inf
) -> tuple[int, float]:
    """The batch with the highest throughput, and that, in images/s.

    Batches are tried from small to large, until one that is twice as large brings less than `gain` times the rate, or
    runs out of memory.

    Args:
        time_of: seconds that a batch takes.
        sizes: batches to try, growing.
        gain: how much more a larger batch must bring.
        longest: seconds; a batch is not tried if it would take more than this at the rate of the one before.

    Raises:
        What torch raises for want of memory: even the smallest does not fit.
    """
    best, rate = 0, 0.0
    for size in sizes:
        if best and size / rate > longest:
            break
        try:
            new = size / time_of(size)
        except Exception as error:
            if not best or not ran_out(error):
                raise
            break
        if new <= rate:
            break
        grown = new > gain * rate
        best, rate = size, new
        if not grown:
            break
    return best, rate
