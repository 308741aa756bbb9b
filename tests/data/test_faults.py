import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from fvit.data import faults
from fvit.data.faults import Fault, FaultLog, attempt, deadline
from fvit.data.images import DataError

# Counting.


def several(count, first=0):
    return [Fault(f"image {i}", "truncated") for i in range(first, first + count)]


def test_as_many_as_the_limit_are_skipped():
    log = FaultLog(limit=3)
    log.note(several(2))
    log.note(several(1, 2))
    assert log.take() == several(3)
    assert log.take() == [], "each is told once"
    log.note(several(3))
    assert len(log.take()) == 3, "the limit is that of an epoch"


@pytest.mark.parametrize("limit", [0, 2])
def test_one_more_than_the_limit_is_an_error_that_says_what_to_do(limit):
    log = FaultLog(limit)
    log.note(several(limit))
    with pytest.raises(DataError) as caught:
        log.note(several(1, limit))
    reason = str(caught.value)
    assert reason.startswith(f"image {limit}: truncated\n")
    assert f"With it {limit + 1} images of this epoch" in reason
    assert f"data.skip_limit={limit}" in reason
    assert "raise the limit" in reason


def test_a_fatal_fault_ends_the_run_below_the_limit():
    log = FaultLog(limit=100)
    with pytest.raises(DataError, match=r"^train-3\.tar: it is missing$"):
        log.note([Fault("image 1", "truncated"), Fault("train-3.tar", "it is missing", fatal=True)])
    assert len(log.take()) == 2, "what is told at the end includes it"


# Trying again.


class Failing:
    """Fails so many times."""

    def __init__(self, failures, error=OSError):
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error(f"call {self.calls}")
        return "data"


@pytest.fixture
def pauses(monkeypatch):
    """What was slept, in place of sleeping."""
    slept = []
    monkeypatch.setattr(faults, "time", SimpleNamespace(sleep=slept.append))
    return slept


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_what_fails_for_now_is_tried_again(pauses, failures):
    read = Failing(failures)
    assert attempt(read) == "data"
    assert read.calls == failures + 1
    assert pauses == [0.1, 0.2][:failures]


def test_what_fails_for_good_says_so_the_last_time(pauses):
    read = Failing(9)
    with pytest.raises(OSError, match="call 3"):
        attempt(read)
    assert read.calls == 3
    assert pauses == [0.1, 0.2], "and does not wait after the last"
    with pytest.raises(OSError, match="call 8"):
        attempt(read, tries=5)


def test_what_is_damaged_is_not_tried_again(pauses):
    read = Failing(1, DataError)
    with pytest.raises(DataError):
        attempt(read)
    assert (read.calls, pauses) == (1, [])


# Deadlines.


def previous(*_):
    raise AssertionError("the handler of others")


@pytest.fixture
def handler():
    """A handler that was there before."""
    before = signal.signal(signal.SIGALRM, previous)
    yield previous
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_deadline_ends_a_read_that_blocks(tmp_path, handler):
    """Of a pipe into which nobody writes, as of a network file system whose server is gone."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)
    began = time.monotonic()
    with (
        pytest.raises(TimeoutError, match=r"reading the pipe took longer than 0\.2 s"),
        deadline("reading the pipe", 0.2),
    ):
        os.read(pipe, 1)
    os.close(pipe)
    assert 0.15 < time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_timeout_is_what_is_tried_again():
    assert issubclass(TimeoutError, OSError)
    calls = []

    def read():
        calls.append(None)
        with deadline("reading", 0.05):
            time.sleep(0 if len(calls) == 2 else 5)
        return "data"

    assert attempt(read, pause=0.01) == "data"
    assert len(calls) == 2


def test_the_default_is_that_of_reads(monkeypatch):
    monkeypatch.setattr(faults, "READ_SECONDS", 0.05)
    with pytest.raises(TimeoutError, match=r"reading took longer than 0\.05 s"), deadline("reading"):
        time.sleep(5)


def test_in_time_nothing_happens_and_nothing_is_left(handler):
    with deadline("reading", 0.1):
        pass
    assert signal.getsignal(signal.SIGALRM) is handler
    time.sleep(0.15)


def test_an_error_within_leaves_nothing(handler):
    with pytest.raises(KeyError), deadline("reading", 0.1):
        {}["missing"]
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_in_another_thread_it_does_nothing(handler):
    """Signals reach main threads alone."""
    done = []

    def work():
        with deadline("reading", 0.01):
            time.sleep(0.05)
        done.append(signal.getsignal(signal.SIGALRM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert done == [handler]
