import os
import pickle
import signal

import pytest

from fvit.launch import signals
from fvit.launch.signals import Stopped


def _send(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_raised_and_handlers_are_given_back(signum):
    before = signal.getsignal(signum)
    with pytest.raises(Stopped, match=f"stopped by {signum.name}") as caught, signals.listening():
        _send(signum)
    assert caught.value.signum == signum
    assert signal.getsignal(signum) is before


def test_a_signal_is_noted_where_it_would_disturb():
    def work():
        with signals.deferring():
            _send(signal.SIGUSR1)
            assert signals.received() == signal.SIGUSR1
        signals.raise_received()

    with pytest.raises(Stopped) as caught, signals.listening():
        work()
    assert caught.value.signum == signal.SIGUSR1


def test_what_was_received_is_forgotten_when_listening_begins_anew():
    with signals.deferring():
        _send()
    with signals.listening():
        assert signals.received() is None
        signals.raise_received()


def test_a_second_signal_ends_at_once_and_an_echo_does_not(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with signals.deferring():
        _send()
        _send()
        assert (codes, signals.told()) == ([], 1)
        monkeypatch.setattr(signals, "_ECHO_SECONDS", 0.0)
        _send()
    assert codes == [143]


def test_once_nothing_is_left_to_save_no_signal_cuts_the_end(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(signals, "_ECHO_SECONDS", 0.0)
    with signals.listening():
        with signals.deferring():
            _send(signal.SIGUSR1)
            signals.ignore_further()
        _send()
        assert (codes, signals.received(), signals.told()) == ([], signal.SIGUSR1, 1)
    with pytest.raises(Stopped), signals.listening():
        _send()


def test_who_handles_a_second_signal_is_told_of_it(monkeypatch):
    monkeypatch.setattr(signals, "_ECHO_SECONDS", 0.0)
    with signals.deferring(handles_second=True):
        _send(signal.SIGUSR1)
        _send()
        assert (signals.received(), signals.told()) == (signal.SIGUSR1, 2)


def test_the_handler_of_before_gets_the_signal_afterwards(monkeypatch):
    """As submitit's does, which then has the job queued again; SIGTERM it ignores, and so do we."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    seen = []
    before = [(signum, signal.getsignal(signum)) for signum in (signal.SIGUSR2, signal.SIGTERM)]
    try:
        signal.signal(signal.SIGUSR2, lambda *_: seen.append("requeue"))
        signal.signal(signal.SIGTERM, lambda *_: seen.append("ignored"))
        with signals.deferring():
            _send(signal.SIGTERM)
            assert (signals.received(), seen) == (None, ["ignored"])
            _send(signal.SIGUSR2)
            assert (signals.received(), seen) == (signal.SIGUSR2, ["ignored"])
        assert seen == ["ignored", "requeue"]
    finally:
        for signum, handler in before:
            signal.signal(signum, handler)


def test_it_passes_between_processes():
    stop = pickle.loads(pickle.dumps(Stopped(signal.SIGUSR1, "stopped by SIGUSR1 at step 3")))
    assert (stop.signum, str(stop)) == (signal.SIGUSR1, "stopped by SIGUSR1 at step 3")
