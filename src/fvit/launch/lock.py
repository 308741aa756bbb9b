"""One process at a time in a run's folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fvit.config.errors import RunError

_NAME = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of an existing folder; the system lets go of it when this process dies, however it does.

    Raises:
        RunError: another process holds it.
    """
    # A record lock: unlike flock's it is this process's alone, and loader workers that outlive it do not keep it.
    with (folder / _NAME).open("a") as file:
        if not _try(file):
            raise _taken(folder)
        try:
            yield
        finally:
            (folder / _NAME).unlink(missing_ok=True)


def check_free(folder: Path) -> None:
    """Look, without holding it.

    Raises:
        RunError: another process holds the folder.
    """
    if in_use(folder):
        raise _taken(folder)


def in_use(folder: Path) -> bool:
    """Whether another process holds the folder."""
    if not (folder / _NAME).is_file():
        return False
    with (folder / _NAME).open("a") as file:
        return not _try(file)


def _taken(folder: Path) -> RunError:
    return RunError(f"{folder}: another process is at work in this run; wait for its end, or end it")


def _try(file: object) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks: there is nothing to hold, and nothing to find
        return True
    return True
