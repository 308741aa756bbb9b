import os
import pickle
import signal

import pytest

from fvit.launch import signals
from fvit.launch.signals import Stopped


def _send(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_raised_and_handlers_are_restored(signum):
    before = signal.getsignal(signum)
    with pytest.raises(Stopped, match=f"stopped by {signum.name}") as caught, signals.listening():
        _send(signum)
    assert caught.value.signum == signum
    assert signal.getsignal(signum) is before


def test_a_deferred_signal_is_only_recorded():
    def work():
        with signals.deferring():
            _send(signal.SIGUSR1)
            assert signals.received() == signal.SIGUSR1
        signals.raise_received()

    with pytest.raises(Stopped) as caught, signals.listening():
        work()
    assert caught.value.signum == signal.SIGUSR1


def test_listening_again_forgets_earlier_signals():
    with signals.deferring():
        _send()
    with signals.listening():
        assert signals.received() is None
        signals.raise_received()


def test_a_second_signal_exits_at_once_but_an_echo_does_not(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with signals.deferring():
        _send()
        _send()
        assert codes == []
        monkeypatch.setattr(signals, "_ECHO_SECONDS", 0.0)
        _send()
    assert codes == [143]


def test_no_signal_interrupts_the_end_of_a_run(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(signals, "_ECHO_SECONDS", 0.0)
    with signals.listening():
        with signals.deferring():
            _send(signal.SIGUSR1)
            signals.ignore_further()
        _send()
        assert (codes, signals.received()) == ([], signal.SIGUSR1)
    with pytest.raises(Stopped), signals.listening():
        _send()


def test_an_earlier_handler_gets_the_signal_afterwards(monkeypatch):
    """submitit's requeues the job; it ignores SIGTERM, and so does fvit."""
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


def test_stopped_is_picklable():
    stop = pickle.loads(pickle.dumps(Stopped(signal.SIGUSR1, "stopped by SIGUSR1 at step 3")))
    assert (stop.signum, str(stop)) == (signal.SIGUSR1, "stopped by SIGUSR1 at step 3")


SLURM = ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_ARRAY_JOB_ID")
SLURM += ("SUBMITIT_EXECUTOR", "RANK", "WORLD_SIZE")


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A scontrol that records its arguments: (a function that returns them, a function that replaces its body)."""
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    asked = tmp_path / "asked"

    def install(body="exit 0"):
        program = tmp_path / "scontrol"
        program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n{body}\n')
        program.chmod(0o755)

    install()
    return lambda: asked.read_text().split("\n")[:-1] if asked.exists() else [], install


@pytest.mark.parametrize(
    ("signum", "environment", "expected"),
    [
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7"}, ["requeue 7"]),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "fvit"}, ["requeue 7"]),
        (
            signal.SIGUSR1,
            {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"},
            ["requeue 5_2"],
        ),
        (signal.SIGTERM, {"SLURM_JOB_ID": "7"}, []),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, []),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "RANK": "3", "WORLD_SIZE": "4"}, []),
        (
            signal.SIGUSR1,  # torchrun numbers machines in the order in which they join
            {"SLURM_JOB_ID": "7", "RANK": "0", "WORLD_SIZE": "4", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            ["requeue 7"],
        ),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive"}, []),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "SUBMITIT_EXECUTOR": "slurm"}, []),
        (signal.SIGUSR1, {}, []),
    ],
    ids=[
        "batch",
        "rank 0",
        "array",
        "cancelled",
        "rank 1",
        "torchrun",
        "torchrun's first",
        "interactive",
        "submitit",
        "no SLURM",
    ],
)
def test_rank_zero_of_a_batch_job_requeues_it_once(scontrol, monkeypatch, signum, environment, expected):
    asked, _ = scontrol
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    signals.requeue(signum)
    assert asked() == expected


def test_a_failing_scontrol_is_reported(scontrol, monkeypatch, capsys):
    _, install = scontrol
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    signals.requeue(signal.SIGUSR1)
    assert "SLURM has requeued job 7" in capsys.readouterr().err
    install("echo 'Requested operation is presently disabled' >&2; exit 1")
    signals.requeue(signal.SIGUSR1)
    assert "job 7 was not requeued: Requested operation is presently disabled" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    signals.requeue(signal.SIGUSR1)
    assert "job 7 was not requeued: there is no scontrol" in capsys.readouterr().err
