import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from fvit.data import faults
from fvit.data.faults import Fault, FaultLog, attempt, deadline
from fvit.data.images import DataError


def several(count, first=0):
    return [Fault(f"image {i}", "truncated") for i in range(first, first + count)]


def test_faults_up_to_the_limit_are_collected():
    log = FaultLog(limit=3)
    log.note(several(2))
    log.note(several(1, 2))
    assert log.take() == several(3)
    assert log.take() == [], "each is returned once"
    log.note(several(3))
    assert len(log.take()) == 3, "the limit is per epoch"


@pytest.mark.parametrize("limit", [0, 2])
def test_more_faults_than_the_limit_are_an_error(limit):
    log = FaultLog(limit)
    log.note(several(limit))
    with pytest.raises(DataError) as caught:
        log.note(several(1, limit))
    reason = str(caught.value)
    assert reason.startswith(f"image {limit}: truncated\n")
    assert f"{limit + 1} images of this epoch could not be used" in reason
    assert f"data.skip_limit={limit}" in reason
    assert "raise the limit" in reason


def test_fatal_fault_is_an_error():
    log = FaultLog(limit=100)
    with pytest.raises(DataError, match=r"^train-3\.tar: it is missing$"):
        log.note([Fault("image 1", "truncated"), Fault("train-3.tar", "it is missing", fatal=True)])
    assert len(log.take()) == 2, "including the fatal one"


class Failing:
    """Fails a number of times."""

    def __init__(self, failures, error=OSError):
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error(f"call {self.calls}")
        return "data"


@pytest.fixture
def pauses(monkeypatch):
    """Records pauses instead of sleeping."""
    slept = []
    monkeypatch.setattr(faults, "time", SimpleNamespace(sleep=slept.append))
    return slept


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_transient_failure_is_retried(pauses, failures):
    read = Failing(failures)
    assert attempt(read) == "data"
    assert read.calls == failures + 1
    assert pauses == [0.1, 0.2][:failures]


def test_persistent_failure_is_raised(pauses):
    read = Failing(9)
    with pytest.raises(OSError, match="call 3"):
        attempt(read)
    assert read.calls == 3
    assert pauses == [0.1, 0.2], "without a pause after the last attempt"
    with pytest.raises(OSError, match="call 8"):
        attempt(read, tries=5)


def test_damage_is_not_retried(pauses):
    read = Failing(1, DataError)
    with pytest.raises(DataError):
        attempt(read)
    assert (read.calls, pauses) == (1, [])


def previous(*_):
    raise AssertionError("not called")


@pytest.fixture
def handler():
    """An existing handler."""
    before = signal.signal(signal.SIGALRM, previous)
    yield previous
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_deadline_ends_a_blocking_read(tmp_path, handler):
    """From a pipe without a writer, as from a network file system without a server."""
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


def test_timeout_is_retried():
    assert issubclass(TimeoutError, OSError)
    calls = []

    def read():
        calls.append(None)
        with deadline("reading", 0.05):
            time.sleep(0 if len(calls) == 2 else 5)
        return "data"

    assert attempt(read, pause=0.01) == "data"
    assert len(calls) == 2


def test_default_deadline(monkeypatch):
    monkeypatch.setattr(faults, "READ_SECONDS", 0.05)
    with pytest.raises(TimeoutError, match=r"reading took longer than 0\.05 s"), deadline("reading"):
        time.sleep(5)


def test_deadline_is_cleared_in_time(handler):
    with deadline("reading", 0.1):
        pass
    assert signal.getsignal(signal.SIGALRM) is handler
    time.sleep(0.15)


def test_deadline_is_cleared_after_an_error(handler):
    with pytest.raises(KeyError), deadline("reading", 0.1):
        {}["missing"]
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_deadline_has_no_effect_in_other_threads(handler):
    done = []

    def work():
        with deadline("reading", 0.01):
            time.sleep(0.05)
        done.append(signal.getsignal(signal.SIGALRM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert done == [handler]
