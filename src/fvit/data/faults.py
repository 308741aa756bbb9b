"""Images that could not be read: retries and timeouts in loader workers, and a limit per epoch in the trainer."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from fvit.config.wording import count
from fvit.data.images import DataError

T = TypeVar("T")

READ_SECONDS = 60.0  # after which a read counts as stalled


class Fault(NamedTuple):
    """An image that could not be used, and why; `fatal` if the run cannot continue."""

    where: str
    reason: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.where} {self.reason}" if self.reason.startswith("is ") else f"{self.where}: {self.reason}"


class FaultLog:
    """Collects the faults of an epoch in one process, each image once, of which `limit` are allowed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._faults: dict[str, Fault] = {}

    def note(self, faults: Iterable[Fault]) -> None:
        """Add the faults of a batch; an error if one is fatal, or there are more than the limit.

        An image that was noted before, because it was tried in place of a damaged neighbour, does not count again.
        """
        for fault in faults:
            self._faults[fault.where] = fault
            if fault.fatal:
                raise DataError(str(fault))
            if len(self._faults) > self.limit:
                raise DataError(
                    f"{fault}\n"
                    f"{count(len(self._faults), 'image')} of this epoch could not be used, more than "
                    f"data.skip_limit={self.limit}; repair the data, or raise the limit"
                )

    def take(self) -> list[Fault]:
        """Return the faults so far, and clear them."""
        faults, self._faults = list(self._faults.values()), {}
        return faults

    def latest(self) -> Fault:
        """The fault that was noted last."""
        return next(reversed(self._faults.values()))


def attempt(read: Callable[[], T], tries: int = 3, pause: float = 0.1) -> T:
    """Call `read`, and again after an OSError, from which a network file system may recover.

    `pause` is the number of seconds before the second call, and doubles with each one.
    """
    for _ in range(tries - 1):
        try:
            return read()
        except OSError:
            time.sleep(pause)
            pause *= 2
    return read()


@contextmanager
def deadline(what: str, seconds: float | None = None) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer than `seconds` (READ_SECONDS), even in a blocking system call.

    It uses SIGALRM, so it only has an effect in the main thread of a process, such as that of a loader worker.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    seconds = READ_SECONDS if seconds is None else seconds

    def stop(*_: object) -> None:
        raise TimeoutError(f"{what} took longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
