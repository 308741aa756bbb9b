"""What could not be used: noted where it is met, in a loader's process, and counted where the epoch is trained."""

import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from fvit.data.images import DataError

T = TypeVar("T")

READ_SECONDS = 60.0
"""After so long a read is taken for stalled, and tried again."""


class Fault(NamedTuple):
    """An image that could not be used: where it lies, why, and whether the run cannot go on."""

    where: str
    reason: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.where} {self.reason}" if self.reason.startswith("is ") else f"{self.where}: {self.reason}"


class FaultLog:
    """Counts the faults of an epoch in one process, up to a limit.

    Args:
        limit: images an epoch that may be skipped; one more is an error.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.faults: list[Fault] = []

    def note(self, faults: Iterable[Fault]) -> None:
        """Add the faults that came with a batch.

        Raises:
            DataError: one is fatal, or they are more than the limit.
        """
        for fault in faults:
            self.faults.append(fault)
            if fault.fatal:
                raise DataError(str(fault))
            if len(self.faults) > self.limit:
                raise DataError(
                    f"{fault}\n"
                    f"With it {len(self.faults)} images of this epoch cannot be used, and data.skip_limit={self.limit} "
                    "may be skipped; repair the data, or raise the limit"
                )

    def take(self) -> list[Fault]:
        """The faults so far, and begin anew."""
        faults, self.faults = self.faults, []
        return faults


def attempt(read: Callable[[], T], tries: int = 3, pause: float = 0.1) -> T:
    """Call `read`, again where it raises OSError: a network file system recovers.

    Args:
        read: what may fail.
        tries: calls in all.
        pause: seconds before the second call; doubles with each.
    """
    for left in reversed(range(tries)):
        try:
            return read()
        except OSError:
            if not left:
                raise
            time.sleep(pause)
            pause *= 2
    raise AssertionError


class Deadline:
    """Context manager that raises TimeoutError when its block takes longer, also out of a system call that waits.

    It rests on SIGALRM, which reaches main threads alone, those of loader workers among them; elsewhere it does
    nothing.

    Args:
        what: is done, for the error's text.
        seconds: None for `READ_SECONDS`.
    """

    def __init__(self, what: str, seconds: float | None = None) -> None:
        self.what = what
        self.seconds = READ_SECONDS if seconds is None else seconds
        self.active = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self.active:
            self.previous = signal.signal(signal.SIGALRM, self._stop)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_: object) -> None:
        if self.active:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.previous)

    def _stop(self, *_: object) -> None:
        raise TimeoutError(f"{self.what} took longer than {self.seconds:g} s")
