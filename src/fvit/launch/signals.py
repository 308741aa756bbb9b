"""Preemption: SIGTERM, or the SIGUSR1 that a cluster sends before the time is up, and requeueing by SLURM."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fvit.launch.ranks import is_rank_zero

EXIT_CODE = 143
"""The exit code after any of these signals: that of SIGTERM."""

# A signal to a process group arrives a second time, forwarded by the parent process. A later one is a new request.
_ECHO_SECONDS = 5.0


class Stopped(KeyboardInterrupt):
    """A signal ended the process. As a KeyboardInterrupt, libraries clean up after it and do not swallow it.

    Args:
        signum: the signal.
        text: the message; by default the signal's name.
    """

    def __init__(self, signum: int, text: str | None = None) -> None:
        super().__init__(signum, text)  # unchanged, which makes it picklable
        self.signum = signum
        self.text = text or f"stopped by {signal.Signals(signum).name}"

    def __str__(self) -> str:
        return self.text


class _State:
    signum: int | None = None
    last = 0.0
    listening = False
    deferred = False
    ending = False


_state = _State()


@contextmanager
def listening() -> Iterator[None]:
    """Raise `Stopped` in the main thread on a signal; a second signal, seconds later, exits at once.

    A previously installed handler is called at the end: submitit's, which requeues the job. Nested in another
    `listening`, and outside the main thread, this does nothing.
    """
    if _state.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.signum, _state.listening, _state.ending = None, True, False
    before = {signum: signal.signal(signum, _handle) for signum in handled()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _state.listening = False
        signum, _state.signum = _state.signum, None
        if callable(handler := before.get(signum)):
            handler(signum, None)


@contextmanager
def deferring() -> Iterator[None]:
    """Only record the first signal, for `received`."""
    with listening():
        before, _state.deferred = _state.deferred, True
        try:
            yield
        finally:
            _state.deferred = before


def received() -> int | None:
    """The first signal since `listening` began, if any."""
    return _state.signum


def ignore_further() -> None:
    """Let no signal interrupt what remains after the checkpoint: closing loggers, metrics.json and requeueing.

    When one rank has exited, srun and torchrun send SIGTERM to the others, whatever the first one's exit code.
    """
    _state.ending = True


def raise_received() -> None:
    """Raise `Stopped` if a signal was recorded and nobody has acted on it."""
    if _state.signum is not None:
        raise Stopped(_state.signum)


def _handle(signum: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.signum is None and not _state.ending:
        _state.signum, _state.last = signum, now
        if not _state.deferred:
            raise Stopped(signum)
    elif not _state.ending and now - _state.last >= _ECHO_SECONDS:
        os._exit(EXIT_CODE)


def handled() -> list[signal.Signals]:
    """The signals that end a run; submitit ignores SIGTERM, and has a signal of its own in place of SIGUSR1."""
    if "SUBMITIT_EXECUTOR" in os.environ:
        names = ["SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")]
    else:
        names = ["SIGTERM", "SIGUSR1"]
    return [signal.Signals[name] for name in names if name in signal.Signals.__members__]


def requeue(signum: int) -> None:
    """Call ``scontrol requeue`` for this SLURM job, once, by rank 0, if SIGUSR1 ended it.

    ``#SBATCH --signal=USR1@90`` sends it 90 s before the time limit. SIGTERM is left to SLURM, which requeues preempted
    jobs if configured to, and must not requeue what a person cancelled. Interactive sessions are not requeued, and
    submitit requeues its jobs itself.
    """
    environment = os.environ
    if signum != signal.SIGUSR1 or "SLURM_JOB_ID" not in environment or "SUBMITIT_EXECUTOR" in environment:
        return
    if environment.get("SLURM_JOB_NAME") in ("bash", "interactive") or not is_rank_zero():
        return
    job = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=15)
    except FileNotFoundError:
        reason = "there is no scontrol on this machine"
    except subprocess.TimeoutExpired:
        reason = "scontrol did not answer within 15 s"
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip() or f"scontrol exited with code {error.returncode}"
    else:
        print(f"SLURM has requeued job {job}", file=sys.stderr)
        return
    print(f"job {job} was not requeued: {reason}", file=sys.stderr)
