"""The lock on a run directory."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fvit.config.errors import RunError

_NAME = ".lock"
_IN_USE = "{} is in use by another process; wait for its end, or end it"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock an existing run directory; the kernel releases the lock when this process dies, however it does.

    Raises:
        RunError: another process holds the lock.
    """
    was_killed = (folder / _NAME).is_file()  # a start that is refused changes nothing, not even this
    # A record lock belongs to this process alone; a flock would be kept by loader workers that outlive it.
    with (folder / _NAME).open("a") as file:
        if not _try(file):
            raise RunError(_IN_USE.format(folder))
        try:
            yield
        finally:
            if not was_killed:
                (folder / _NAME).unlink(missing_ok=True)


def check_free(folder: Path) -> None:
    """Check that no other process holds the lock.

    Raises:
        RunError: one does.
    """
    if in_use(folder):
        raise RunError(_IN_USE.format(folder))


def in_use(folder: Path) -> bool:
    """Whether another process holds the lock."""
    if not (folder / _NAME).is_file():
        return False
    with (folder / _NAME).open("a") as file:
        return not _try(file)


def _try(file: IO[Any]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True
