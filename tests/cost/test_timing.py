"""Turns, intervals and batch sizes."""

import math
import random

import pytest
import torch

from fvit.cost.timing import Timing, best_batch, time_in_turns


def test_candidates_take_turns_in_alternating_order():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = time_in_turns(steps, runs=4)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc" + "cba"
    assert {name: len(timing.seconds) for name, timing in timings.items()} == dict(a=4, b=4, c=4)


def test_budget_allows_three_rounds_at_least():
    calls = []
    time_in_turns({"a": lambda: calls.append(1)}, runs=1000, budget=0)
    assert len(calls) == 1 + 3


def test_device_without_events_is_synchronised_after_each_run(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("wait"))
    time_in_turns({"a": lambda: calls.append("run")}, runs=2, device=torch.device("mps"))
    assert calls == ["run", "wait"] * 3


class Event:
    """A CUDA event on a device that takes one second per run; `calls` is what the host does."""

    calls, now = [], 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = Event.now

    def synchronize(self):
        Event.calls.append("wait")

    def elapsed_time(self, end):
        return 1e3 * (end.time - self.time)


@pytest.mark.parametrize(("queued", "turns"), [(True, "a b wait wait"), (False, "a wait b wait")])
def test_cuda_is_timed_between_events_and_waited_for_after_a_round_or_a_latency(monkeypatch, queued, turns):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "calls", [])

    def step(name):
        Event.calls.append(name)
        Event.now += 1.0

    steps = {name: lambda name=name: step(name) for name in "ab"}
    timings = time_in_turns(steps, runs=3, device=torch.device("cuda"), queued=queued)
    assert {name: timing.seconds for name, timing in timings.items()} == dict.fromkeys("ab", (1.0,) * 3)
    warm_up = ["a", "wait"] * 3 + ["b", "wait"] * 3
    assert Event.calls[: len(warm_up)] == warm_up
    first_round = Event.calls[len(warm_up) :][: len(turns.split())]
    assert " ".join(first_round) == turns


def test_interval_contains_the_median_in_95_of_100_cases():
    draw = random.Random(0)
    held = 0
    for _ in range(2000):
        low, high = Timing(tuple(draw.expovariate(1) for _ in range(21))).interval
        held += low <= math.log(2) <= high
    assert 0.95 <= held / 2000 <= 0.99


@pytest.mark.parametrize(
    ("runs", "interval"), [(1, None), (3, None), (5, None), (6, (0, 5)), (9, (1, 7)), (20, (5, 14))]
)
def test_interval_of_few_runs_is_as_in_tables(runs, interval):
    assert Timing(tuple(range(runs))).interval == interval


def test_progress_is_reported_after_each_round():
    shares = []
    time_in_turns({"a": lambda: None, "b": lambda: None}, runs=4, progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]
    shares.clear()
    time_in_turns({"a": lambda: None}, runs=100, budget=0, progress=shares.append)
    assert shares == [1.0] * 3, "the budget is spent"


def test_batches_that_would_take_too_long_are_not_tried():
    tried = []

    def time_of(size):
        tried.append(size)
        return 1 + 0.1 * size  # larger batches always have a higher throughput

    assert best_batch(time_of, [1, 2, 4, 8, 16, 32], longest=3.0)[0] == 8
    assert tried == [1, 2, 4, 8]
    tried.clear()
    best_batch(time_of, [4, 8], longest=0.1)
    assert tried == [4], "the smallest is always tried"


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({1: 10, 2: 20, 4: 30, 8: 30.1, 16: 99}, (8, 30.1)),
        ({1: 10, 2: 20, 4: 15, 8: 99}, (2, 20)),
        ({1: 10, 2: 20, 4: torch.OutOfMemoryError()}, (2, 20)),
        ({1: 10, 2: 20, 4: RuntimeError("DefaultCPUAllocator: can't allocate memory")}, (2, 20)),
        ({1: 10}, (1, 10)),
    ],
)
def test_best_batch_is_the_last_that_improved(rates, best):
    def time_of(size):
        if isinstance(rates[size], Exception):
            raise rates[size]
        return size / rates[size]

    size, rate = best_batch(time_of, list(rates))
    assert (size, rate) == (best[0], pytest.approx(best[1]))


def test_out_of_memory_at_the_smallest_batch_is_raised():
    def time_of(size):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        best_batch(time_of, [1, 2])


def test_other_errors_are_raised():
    def time_of(size):
        if size == 2:
            raise RuntimeError("shapes")
        return 1.0

    with pytest.raises(RuntimeError, match="shapes"):
        best_batch(time_of, [1, 2])
