import multiprocessing
import os
import signal
import time
from functools import partial

import pytest

from fvit.data.images import BadImage, DataError
from fvit.data.pool import run


def _square(item):
    for _ in range(item):
        yield 1
    return item * item, os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_results_are_in_order_and_progress_adds_up(workers):
    counted = []
    results = run(_square, [3, 1, 2, 0], workers, counted.append)
    assert [result for result, _ in results] == [9, 1, 4, 0]
    assert sum(counted) == 6
    assert len({pid for _, pid in results} | {os.getpid()}) == 1 + min(workers, 4)


def test_no_items():
    assert run(_square, [], 3, print) == []


def _fail(item):
    yield 1
    if item == "bad":
        raise BadImage("a.jpg is bad")
    if item == "broken":
        raise KeyError("a bug")
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(600):
        time.sleep(0.1)
        yield 1


@pytest.mark.parametrize(
    ("item", "kind", "message"),
    [
        ("bad", DataError, "a.jpg is bad"),
        ("broken", RuntimeError, "KeyError: 'a bug'"),
        ("killed", DataError, r"worker .*\. If it ran out of memory, use fewer workers"),
    ],
)
def test_failing_worker_ends_all(item, kind, message):
    start = time.monotonic()
    with pytest.raises(kind, match=message):
        run(_fail, ["sleep", item], 2, lambda count: None)
    assert time.monotonic() - start < 20


def _work_forever(writer, item):
    os.write(writer, b"started ")
    while True:
        time.sleep(0.02)
        yield 1


@pytest.mark.slow
def test_workers_end_with_their_parent():
    reader, writer = os.pipe()
    context = multiprocessing.get_context("fork")
    parent = context.Process(target=run, args=(partial(_work_forever, writer), [0, 1], 2, lambda count: None))
    parent.start()
    os.close(writer)
    started = b""
    while started.count(b"started") < 2:
        started += os.read(reader, 100)
    parent.kill()
    parent.join()
    # The workers hold the other end of this pipe, so this returns when the last of them has ended.
    assert os.read(reader, 100) == b""
    os.close(reader)
