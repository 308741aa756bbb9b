"""Being told to end: SIGTERM, or SIGUSR1, which a cluster sends before it takes the machine away."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 143
"""Of a process that was told to end, by whichever signal: that of SIGTERM."""

# A signal to a process group also arrives by way of the process that started this one. What comes later is meant anew.
_ECHO_SECONDS = 5.0


class Stopped(KeyboardInterrupt):
    """The process was told to end. A KeyboardInterrupt, for which libraries clean up and which they let pass.

    Args:
        signum: the signal.
        text: what came of it, for people.
    """

    def __init__(self, signum: int, text: str | None = None) -> None:
        super().__init__(signum, text)  # as they are, so that it passes between processes
        self.signum = signum
        self.text = text or f"stopped by {signal.Signals(signum).name}"

    def __str__(self) -> str:
        return self.text


class _State:
    signum: int | None = None
    told = 0
    last = 0.0
    listening = False
    deferred = False
    handles_second = False
    ending = False


_state = _State()


@contextmanager
def listening() -> Iterator[None]:
    """Raise `Stopped` here, in the main thread, when a signal comes; a second one, seconds later, ends at once.

    A handler that was there before gets the signal afterwards: submitit's, which has the job done again. Within another
    `listening`, and in any other thread, this does nothing.
    """
    if _state.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.signum, _state.told, _state.listening, _state.ending = None, 0, True, False
    before = {signum: signal.signal(signum, _handle) for signum in heeded()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _state.listening = False
        if callable(handler := before.get(_state.signum)):
            handler(_state.signum, None)


@contextmanager
def deferring(handles_second: bool = False) -> Iterator[None]:
    """Only note a signal, for `received` to tell.

    Args:
        handles_second: whether the code within looks at `told` and so ends at once by itself.
    """
    with listening():
        before = _state.deferred, _state.handles_second
        _state.deferred, _state.handles_second = True, handles_second
        try:
            yield
        finally:
            _state.deferred, _state.handles_second = before


def received() -> int | None:
    """The signal that came since `listening` began; None if none has."""
    return _state.signum


def told() -> int:
    """How often the process was told to end, echoes left out."""
    return _state.told


def ignore_further() -> None:
    """Let no signal cut what is left to do: with the checkpoint saved, that is W&B's end, the record, and requeueing.

    Where one rank has ended, srun and torchrun send the others a SIGTERM, however the first one came to end.
    """
    _state.ending = True


def raise_received() -> None:
    """Raise `Stopped` if a signal was noted and nobody has acted on it."""
    if _state.signum is not None:
        raise Stopped(_state.signum)


def _handle(signum: int, frame: FrameType | None) -> None:
    if _state.ending:
        return
    now = time.monotonic()
    first = _state.signum is None
    if not first and now - _state.last < _ECHO_SECONDS:
        return
    _state.signum, _state.last = signum if first else _state.signum, now
    _state.told += 1
    if not first and not _state.handles_second:
        os._exit(EXIT_CODE)
    if first and not _state.deferred:
        raise Stopped(signum)


def heeded() -> list[signal.Signals]:
    """Those by which a process is told to end.

    submitit ignores SIGTERM and has a signal of its own for what SIGUSR1 means elsewhere.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        names = ["SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")]
    else:
        names = ["SIGTERM", "SIGUSR1"]
    return [signal.Signals[name] for name in names if name in signal.Signals.__members__]
