import multiprocessing
import os
import signal
import time
from functools import partial

import pytest

from fvit.data.images import BadImage, DataError
from fvit.data.pool import run


def _square(item, advance):
    for _ in range(item):
        advance(1)
    return item * item, os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_results_come_in_order_and_progress_adds_up(workers):
    counted = []
    results = run(_square, [3, 1, 2, 0], workers, counted.append)
    assert [result for result, _ in results] == [9, 1, 4, 0]
    assert sum(counted) == 6
    assert len({pid for _, pid in results} | {os.getpid()}) == 1 + min(workers, 4)


def test_nothing_to_do_starts_nothing():
    assert run(_square, [], 3, print) == []


def _fail(item, advance):
    if item == "bad":
        raise BadImage("a.jpg is bad")
    if item == "broken":
        raise KeyError("a bug")
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@pytest.mark.parametrize(
    ("item", "kind", "message"),
    [
        ("bad", DataError, "a.jpg is bad"),
        ("broken", RuntimeError, "KeyError: 'a bug'"),
        ("killed", DataError, "a worker was killed by signal 9; if that was for want of memory, take fewer workers"),
    ],
)
def test_a_worker_that_fails_ends_all(item, kind, message):
    start = time.monotonic()
    with pytest.raises(kind, match=message):
        run(_fail, ["sleep", item], 2, print)
    assert time.monotonic() - start < 20


def _work_for_ever(writer, item, advance):
    os.write(writer, b"started ")
    while True:
        time.sleep(0.02)
        advance(1)


def test_workers_end_with_the_process_that_started_them():
    reader, writer = os.pipe()
    context = multiprocessing.get_context("fork")
    parent = context.Process(target=run, args=(partial(_work_for_ever, writer), [0, 1], 2, lambda count: None))
    parent.start()
    os.close(writer)
    started = b""
    while started.count(b"started") < 2:
        started += os.read(reader, 100)
    parent.kill()
    parent.join()
    # The workers hold the other end of this pipe, so this returns when the last of them is gone.
    assert os.read(reader, 100) == b""
    os.close(reader)
