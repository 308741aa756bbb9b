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


def test_image_counts_once_however_often_it_is_tried():
    """In place of each of its damaged neighbours, and in its own."""
    log = FaultLog(limit=14)
    for first in range(14):
        log.note(several(14 - first, first))
    assert log.latest() == several(1, 13)[0]
    assert log.take() == several(14)
    log.note(several(14))
    with pytest.raises(DataError, match=r"15 images of this epoch"):
        log.note(several(1, 14))


@pytest.mark.parametrize("limit", [0, 2])
def test_more_faults_than_the_limit_are_an_error(limit):
    log = FaultLog(limit)
    log.note(several(limit))
    match = rf"^image {limit}: truncated\n{limit + 1} images? of this epoch .*skip_limit={limit}; .*raise the limit"
    with pytest.raises(DataError, match=match):
        log.note(several(1, limit))


def test_fatal_fault_is_an_error():
    log = FaultLog(limit=100)
    with pytest.raises(DataError, match=r"^train-3\.tar: it is missing$"):
        log.note([Fault("image 1", "truncated"), Fault("train-3.tar", "it is missing", fatal=True)])
    assert len(log.take()) == 2, "including the fatal one"


@pytest.mark.parametrize(
    ("failures", "error", "calls"), [(0, OSError, 1), (2, OSError, 3), (9, OSError, 3), (1, DataError, 1)]
)
def test_only_system_errors_are_retried(monkeypatch, failures, error, calls):
    pauses, done = [], []
    monkeypatch.setattr(faults, "time", SimpleNamespace(sleep=pauses.append))

    def read():
        done.append(None)
        if len(done) <= failures:
            raise error(f"call {len(done)}")
        return "data"

    if failures < calls:
        assert attempt(read) == "data"
    else:
        with pytest.raises(error, match=f"call {calls}"):
            attempt(read)
    assert len(done) == calls
    assert pauses == [0.1, 0.2][: calls - 1]


def _not_called(*_):
    raise AssertionError


@pytest.fixture
def handler():
    """An existing handler of the signal."""
    before = signal.signal(signal.SIGALRM, _not_called)
    yield _not_called
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_deadline_ends_a_blocking_read(tmp_path, handler):
    """From a pipe without a writer, as from a network file system without a server."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)
    began = time.monotonic()
    message = r"reading the pipe took longer than 0\.2 s"
    with pytest.raises(TimeoutError, match=message), deadline("reading the pipe", 0.2):
        os.read(pipe, 1)
    os.close(pipe)
    assert 0.15 < time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_timeout_is_retried(monkeypatch):
    monkeypatch.setattr(faults, "READ_SECONDS", 0.05)
    calls = []

    def read():
        calls.append(None)
        with deadline("reading"):
            time.sleep(0 if len(calls) == 2 else 5)
        return "data"

    assert attempt(read, pause=0.01) == "data"
    assert len(calls) == 2


def test_deadline_is_cleared(handler):
    with deadline("reading", 0.1):
        pass
    assert signal.getsignal(signal.SIGALRM) is handler
    with pytest.raises(KeyError), deadline("reading", 0.1):
        {}["missing"]
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    time.sleep(0.15)


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
