"""A size-limited folder of fetched files, shared by all processes on this machine."""

import errno
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from fvit.data.images import DataError
from fvit.data.storage.base import File

log = logging.getLogger(__name__)

# File names contain the final size, so an unfinished download counts in full.
_NAME = re.compile(r"[0-9a-f]{32}-(?P<size>\d+)-.+?(?P<partial>\.partial)?")
_LOCKS = ".locks"
_POLL = 0.05
# Prefetched files are protected from eviction for this long. Without a limit, those of a killed run would stay forever.
_PROTECTED_SECONDS = 1800


def cache_dir() -> Path:
    """The folder for everything that can be downloaded or computed again: $FVIT_CACHE, or ~/.cache/fvit."""
    return Path(os.environ.get("FVIT_CACHE") or "~/.cache/fvit").expanduser()


class Cache:
    """Keeps complete files, each downloaded once per machine, and evicts the least recently used.

    A file's modification time is when it was fetched, its access time when it was last requested. A process that has
    an evicted file open can continue to read it; one that only has the path may find it gone and must request it again.
    Other files in the folder are neither counted nor deleted.
    """

    def __init__(self, folder: str | Path, gib: float) -> None:
        self.folder = Path(folder).expanduser()
        self.gib = gib
        self.capacity = int(gib * 2**30)

    def get(self, key: str, name: str, size: int, fetch: Callable[[Path], None], *, used: bool = True) -> Path:
        """Path of a cached file, which `fetch` writes if it is missing: one process calls it and the others wait.

        `key` is 32 hexadecimal digits that identify the content; `name` makes the file name readable. A prefetched
        file, which is not `used`, is protected from eviction until it is requested.
        """
        if size > self.capacity:
            gib = size / 2**30
            raise DataError(f"{name} ({gib:.3g} GiB) does not fit into the cache: increase data.cache_gib={self.gib:g}")
        path = self.folder / f"{key}-{size}-{name[-100:]}"
        requested = time.time_ns()
        try:
            if self._has(path, size, used):
                return path
            (self.folder / _LOCKS).mkdir(parents=True, exist_ok=True)
            with self._lock(path):
                if not self._has(path, size, used):
                    self._add(path, size, fetch, used, requested)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"no space left in {self.folder} for {name} ({size:,} bytes): free some, lower "
                    f"data.cache_gib={self.gib:g}, or set data.cache_dir to a folder on another disk"
                ) from None
            raise DataError(f"the cache in {self.folder} cannot be used ({error}): set data.cache_dir") from None
        return path

    def has_room_to_prefetch(self, size: int) -> bool:
        """Whether a file of this size may be prefetched: unused files may take up half of the cache."""
        return size + sum(size for unused, _, size, _ in self._entries() if unused) <= self.capacity / 2

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

    def _add(self, path: Path, size: int, fetch: Callable[[Path], None], used: bool, requested: int) -> None:
        # Processes that waited for this download share its failure instead of retrying it one after the other.
        failure = self.folder / _LOCKS / f"{path.name}.failed"
        if failure.exists() and failure.stat().st_mtime_ns > requested:
            raise DataError(failure.read_text())
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
            failure.write_text(str(error))
            raise
        finally:
            partial.unlink(missing_ok=True)

    def _reserve(self, partial: Path, size: int) -> bool:
        """Evict files until `size` bytes fit, and claim them with an empty file; False if other downloads need them."""
        with FileLock(self.folder / _LOCKS / "all"):
            reserved = dict(self._reservations())
            taken = size + sum(reserved.values())
            if taken > self.capacity:
                return False
            entries = sorted(entry for entry in self._entries() if entry[-1].name not in reserved)
            taken += sum(entry_size for _, _, entry_size, _ in entries)
            for _, _, entry_size, path in entries:
                if taken <= self.capacity:
                    break
                path.unlink(missing_ok=True)
                taken -= entry_size
            partial.touch()
        return True

    def _reservations(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of running downloads; deletes what killed processes left behind."""
        for partial in self.folder.glob("*.partial"):
            if found := _NAME.fullmatch(partial.name):
                try:
                    with self._lock(partial.with_suffix("")).acquire(blocking=False):
                        partial.unlink(missing_ok=True)
                except Timeout:
                    yield partial.stem, int(found["size"])

    def _entries(self) -> Iterator[tuple[bool, int, int, Path]]:
        """The complete files: whether unused, time of last use, size, path. They are evicted in this order."""
        protected_since = time.time_ns() - _PROTECTED_SECONDS * 10**9
        for path in self.folder.glob("*"):
            found = _NAME.fullmatch(path.name)
            if found and not found["partial"]:
                try:
                    status = path.stat()
                except FileNotFoundError:  # evicted by another process
                    continue
                unused = status.st_atime_ns < status.st_mtime_ns and status.st_mtime_ns > protected_since
                yield unused, max(status.st_atime_ns, status.st_mtime_ns), status.st_size, path


class Prefetcher:
    """Fetches files in a background thread as long as the cache has room."""

    def __init__(self, cache: Cache, fetch: Callable[[File], object]) -> None:
        self.pid = os.getpid()  # the thread does not survive a fork
        self._cache = cache
        self._fetch = fetch
        self._lock = threading.Lock()
        self._queue: deque[File] = deque()
        self._thread: threading.Thread | None = None

    def replace(self, files: Sequence[File]) -> None:
        """Fetch these files next, in this order, instead of those of an earlier call."""
        with self._lock:
            self._queue = deque(file for file in files if 2 * file.size <= self._cache.capacity)
            if self._thread is None and self._queue:
                self._thread = threading.Thread(target=self._run, name="fvit-prefetch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (file := self._next()) is not None:
            try:
                self._fetch(file)
            except DataError as error:  # raised again, and then reported, when the file is needed
                log.debug("prefetch failed: %s", error)

    def _next(self) -> File | None:
        while True:
            with self._lock:
                if not self._queue:
                    self._thread = None
                    return None
                if self._cache.has_room_to_prefetch(self._queue[0].size):
                    return self._queue.popleft()
            time.sleep(_POLL)
