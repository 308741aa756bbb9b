import math
import random

import pytest
import torch

from fvit.cost.timing import FEWEST, Timing, best_batch, synchroniser, time_in_turns


def test_all_take_turns_in_an_order_that_is_reversed():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = time_in_turns(steps, runs=4)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc" + "cba"
    assert {name: len(timing.seconds) for name, timing in timings.items()} == dict(a=4, b=4, c=4)


def test_a_budget_ends_it_after_three_rounds_at_the_earliest():
    calls = []
    time_in_turns({"a": lambda: calls.append(1)}, runs=1000, budget=0)
    assert len(calls) == 1 + 3


def test_the_device_is_waited_for_after_each_run():
    events = []
    time_in_turns({"a": lambda: events.append("run")}, runs=2, synchronise=lambda: events.append("wait"))
    assert events == ["run", "wait"] * 3


def test_the_interval_holds_the_median_in_95_of_100_cases():
    draw = random.Random(0)
    held = 0
    for _ in range(2000):
        low, high = Timing(tuple(draw.expovariate(1) for _ in range(21))).interval
        held += low <= math.log(2) <= high
    assert 0.95 <= held / 2000 <= 0.99


@pytest.mark.parametrize(
    ("runs", "interval"), [(1, None), (3, None), (5, None), (6, (0, 5)), (9, (1, 7)), (20, (5, 14))]
)
def test_the_interval_of_few_runs_is_as_tables_have_it(runs, interval):
    assert Timing(tuple(range(runs))).interval == interval


@pytest.mark.parametrize("runs", [FEWEST - 1, FEWEST])
def test_fewer_runs_have_no_interval_because_their_range_covers_too_little(runs):
    """The range misses the median where all runs lie on the same side of it."""
    assert (1 - 2 * 0.5**runs >= 0.95) == (Timing(tuple(range(runs))).interval is not None)


def test_after_each_round_the_share_that_is_done_is_told():
    told = []
    time_in_turns({"a": lambda: None, "b": lambda: None}, runs=4, tell=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]
    told.clear()
    time_in_turns({"a": lambda: None}, runs=100, budget=0, tell=told.append)
    assert told == [1.0] * 3, "the budget is spent"


def test_a_gpu_is_waited_for_and_a_cpu_is_not(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append("cuda"))
    synchroniser(torch.device("cpu"))()
    assert waited == []
    synchroniser(torch.device("cuda"))()
    assert waited == ["cuda"]


def test_no_batch_is_tried_that_would_take_too_long():
    tried = []

    def time_of(size):
        tried.append(size)
        return 1 + 0.1 * size  # a larger batch always has the higher rate

    assert best_batch(time_of, [1, 2, 4, 8, 16, 32], longest=3.0)[0] == 8
    assert tried == [1, 2, 4, 8]
    tried.clear()
    best_batch(time_of, [4, 8], longest=0.1)
    assert tried == [4], "the smallest is, in any case"


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
def test_the_best_batch_is_the_last_that_brought_something(rates, best):
    def time_of(size):
        if isinstance(rates[size], Exception):
            raise rates[size]
        return size / rates[size]

    size, rate = best_batch(time_of, list(rates))
    assert (size, rate) == (best[0], pytest.approx(best[1]))


def test_a_batch_of_one_that_does_not_fit_is_told():
    def time_of(size):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        best_batch(time_of, [1, 2])


def test_what_fails_for_another_reason_is_told():
    def time_of(size):
        if size == 2:
            raise RuntimeError("shapes")
        return 1.0

    with pytest.raises(RuntimeError, match="shapes"):
        best_batch(time_of, [1, 2])
