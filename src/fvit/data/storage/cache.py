"""The bounded folder of this machine in which fetched files are kept, shared by all its processes."""

import errno
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from fvit.data.images import DataError
from fvit.data.storage.base import File

log = logging.getLogger(__name__)

# A name carries its file's size, so that a file still being written counts with the size it will have.
_NAME = re.compile(r"[0-9a-f]{32}-(?P<size>\d+)-.+?(?P<partial>\.partial)?")
_LOCKS = ".locks"
_POLL = 0.05
# A file fetched ahead is spared for so long; without an end, those of a killed run would be spared for ever.
_UNREAD_SECONDS = 1800


def cache_dir() -> Path:
    """The folder for all that can be fetched or computed again: $FVIT_CACHE, else ~/.cache/fvit."""
    return Path(os.environ.get("FVIT_CACHE") or "~/.cache/fvit").expanduser()


class _Entry(NamedTuple):
    path: Path
    size: int
    unread: bool
    last_use: int


class Cache:
    """Whole files, fetched once a machine, the least recently used of which make room for new ones.

    Modification time is when a file came, access time when it was last asked for. Eviction unlinks: who has a file open
    keeps reading it, but who only has its path can find it gone, and then asks again.

    Args:
        folder: created when first needed. Files in it that are not the cache's own are neither counted nor removed.
        gib: the bound, in GiB.
    """

    def __init__(self, folder: str | Path, gib: float) -> None:
        self.folder = Path(folder).expanduser()
        self.gib = gib
        self.bound = int(gib * 2**30)

    def get(self, key: str, name: str, size: int, fetch: Callable[[Path], None], *, used: bool = True) -> Path:
        """The file of that key; if it is not here, `fetch` writes it, in one process while the others wait.

        Args:
            key: identifies the content; 32 hexadecimal digits.
            name: for people, the end of the file's name.
            size: in bytes.
            fetch: writes the whole file to the path it is given, or raises.
            used: False if it is fetched ahead of its use: it is then spared until asked for.

        Raises:
            DataError: the file is larger than the bound, the disk is full, or the folder cannot be written.
        """
        if size > self.bound:
            raise DataError(
                f"{name} has {size / 2**30:.3g} GiB, more than the whole cache may hold: "
                f"data.cache_gib is {self.gib:g}, raise it"
            )
        path = self.folder / f"{key}-{size}-{name[-100:]}"
        asked = time.time_ns()
        try:
            if self._has(path, size, used):
                return path
            (self.folder / _LOCKS).mkdir(parents=True, exist_ok=True)
            with self._lock(path):
                if not self._has(path, size, used):
                    self._raise_failure(path, asked)
                    self._add(path, size, fetch, used)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"no space left in {self.folder} for {name} ({size:,} bytes): free some, lower data.cache_gib "
                    f"(now {self.gib:g}), or set data.cache_dir to a folder of another disk"
                ) from None
            raise DataError(f"the cache in {self.folder} cannot be used ({error}): set data.cache_dir") from None
        return path

    def has_room_to_prefetch(self, size: int) -> bool:
        """Whether a file may be fetched ahead: not while half the bound is filled with files not yet used."""
        return size + sum(entry.size for entry in self._entries() if entry.unread) <= self.bound / 2

    def _lock(self, path: Path) -> FileLock:
        return FileLock(self.folder / _LOCKS / path.name)

    def _has(self, path: Path, size: int, used: bool) -> bool:
        try:
            status = path.stat()
            if status.st_size != size:
                return False
            if used:
                os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
        except FileNotFoundError:
            return False
        return True

    def _add(self, path: Path, size: int, fetch: Callable[[Path], None], used: bool) -> None:
        partial = path.with_name(f"{path.name}.partial")
        path.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
        try:
            while not self._reserve(partial, size):
                time.sleep(_POLL)
            fetch(partial)
            now = time.time_ns()
            os.utime(partial, ns=(now if used else 0, now))
            partial.replace(path)
        except DataError as error:
            self._failure(path).write_text(str(error))
            raise
        finally:
            partial.unlink(missing_ok=True)

    def _failure(self, path: Path) -> Path:
        return self.folder / _LOCKS / f"{path.name}.failed"

    def _raise_failure(self, path: Path, asked: int) -> None:
        """Those who waited for a fetch share its failure, or each in turn would spend all the tries again."""
        failure = self._failure(path)
        if failure.exists() and failure.stat().st_mtime_ns > asked:
            raise DataError(failure.read_text())

    def _reserve(self, partial: Path, size: int) -> bool:
        """Make room and take it by an empty file; False while files that others are fetching leave too little."""
        with FileLock(self.folder / _LOCKS / "all"):
            reserved = dict(self._reservations())
            taken = size + sum(reserved.values())
            if taken > self.bound:
                return False
            entries = [entry for entry in self._entries() if entry.path.name not in reserved]
            entries.sort(key=lambda entry: (entry.unread, entry.last_use))
            taken += sum(entry.size for entry in entries)
            for entry in entries:
                if taken <= self.bound:
                    break
                entry.path.unlink(missing_ok=True)
                taken -= entry.size
            partial.touch()
        return True

    def _reservations(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of the files being fetched; what killed processes left is removed."""
        for partial in self.folder.glob("*.partial"):
            if found := _NAME.fullmatch(partial.name):
                try:
                    with self._lock(partial.with_suffix("")).acquire(blocking=False):
                        partial.unlink(missing_ok=True)
                except Timeout:
                    yield partial.stem, int(found["size"])

    def _entries(self) -> Iterator[_Entry]:
        """The whole files."""
        fresh = time.time_ns() - _UNREAD_SECONDS * 10**9
        for path in self.folder.glob("*"):
            found = _NAME.fullmatch(path.name)
            if found and not found["partial"]:
                try:
                    status = path.stat()
                except FileNotFoundError:  # another process made room
                    continue
                unread = status.st_atime_ns < status.st_mtime_ns and status.st_mtime_ns > fresh
                yield _Entry(path, status.st_size, unread, max(status.st_atime_ns, status.st_mtime_ns))


class Prefetcher:
    """Fetches files in the background of one process, as far ahead of their use as the cache takes them.

    Attributes:
        pid: of that process; threads do not survive a fork.
    """

    def __init__(self, cache: Cache, fetch: Callable[[File], object]) -> None:
        self.pid = os.getpid()
        self._cache = cache
        self._fetch = fetch
        self._lock = threading.Lock()
        self._queue: deque[File] = deque()
        self._thread: threading.Thread | None = None

    def replace(self, files: Sequence[File]) -> None:
        """Fetch these from now on, in this order."""
        with self._lock:
            self._queue = deque(file for file in files if 2 * file.size <= self._cache.bound)
            if self._thread is None and self._queue:
                self._thread = threading.Thread(target=self._run, name="fvit-ahead", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (file := self._next()) is not None:
            try:
                self._fetch(file)
            except DataError as error:  # who needs the file meets it again, and reports it
                log.debug("not fetched ahead: %s", error)

    def _next(self) -> File | None:
        while True:
            with self._lock:
                if not self._queue:
                    self._thread = None
                    return None
                if self._cache.has_room_to_prefetch(self._queue[0].size):
                    return self._queue.popleft()
            time.sleep(_POLL)
