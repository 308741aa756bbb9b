"""Time several candidates in turns in one process, so that disturbances of the machine affect all alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fvit.cost.memory import ran_out

Step = Callable[[], object]
Clock = Callable[[Step], Callable[[], float]]
"""Runs a step, and returns a function that waits for its end and gives its duration in seconds."""

CPU = torch.device("cpu")
FEWEST = 6
"""The fewest runs whose range contains the true median with a probability of 95 %: for 5 it is 1 - 2 · 0.5^5 = 94 %."""


@dataclass(frozen=True)
class Timing:
    """The durations of one candidate's runs, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the median; None for fewer than `FEWEST` runs.

        By order statistics: the number of runs below the true median is binomial, whatever their distribution.
        """
        runs = sorted(self.seconds)
        if len(runs) < FEWEST:
            return None
        below, chance = 0, 0.5 ** len(runs)
        # The largest rank below which the true median lies with a probability of at most 2.5 %.
        while chance <= 0.025 and below < len(runs) // 2:
            below += 1
            chance += math.comb(len(runs), below) * 0.5 ** len(runs)
        return runs[below - 1], runs[-below]


def time_in_turns(
    steps: Mapping[str, Step],
    runs: int = 20,
    budget: float = math.inf,
    device: torch.device = CPU,
    queued: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Timing]:
    """Time each step `runs` times, or fewer if that takes longer than `budget` seconds per step, but at least 3 times.

    Every step runs once to warm up, on CUDA three times. Each round runs all steps, in an order that is reversed from
    round to round.

    Args:
        steps: the candidates by name.
        runs: number of rounds.
        budget: seconds for each candidate, without its warm-up.
        device: where the steps run.
        queued: whether a CUDA device may still be at work when the next step is launched, as in training; otherwise it
            is idle, and the time is a latency.
        progress: called after each round with the share that is done.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    clock = clock_of(device)
    for step in steps.values():
        for _ in range(3 if device.type == "cuda" else 1):
            clock(step)()
    order = list(steps)
    start = time.perf_counter()
    for number in range(1, runs + 1):
        pending = []
        for name in order:
            pending.append((name, clock(steps[name])))
            if not queued or len(pending) == len(order):
                for finished, reading in pending:
                    seconds[finished].append(reading())
                pending.clear()
        order.reverse()
        spent, limit = time.perf_counter() - start, budget * len(steps)
        progress(min(1.0, max(number / runs, spent / limit if limit else 1.0)))
        if number >= 3 and spent > limit:
            break
    return {name: Timing(tuple(found)) for name, found in seconds.items()}


def clock_of(device: torch.device) -> Clock:
    """The clock of `device`: the host's, or on CUDA events, between which the host need not wait."""
    if device.type == "cuda":
        return _between_events
    wait = torch.mps.synchronize if device.type == "mps" else lambda: None

    def on_host(step: Step) -> Callable[[], float]:
        start = time.perf_counter()
        step()
        wait()
        spent = time.perf_counter() - start
        return lambda: spent

    return on_host


def _between_events(step: Step) -> Callable[[], float]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()

    def reading() -> float:
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return reading


def best_batch(
    time_of: Callable[[int], float], sizes: Sequence[int], gain: float = 1.02, longest: float = math.inf
) -> tuple[int, float]:
    """The batch size with the highest throughput, and that throughput in images/s.

    Sizes are tried in ascending order until one has less than `gain` times the throughput of the last, or runs out of
    memory, which is an error for the smallest.

    Args:
        time_of: seconds per batch of a size.
        sizes: batch sizes, ascending.
        gain: the least improvement for going on.
        longest: seconds; a batch is not tried if it would take longer at the throughput of the last.
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
