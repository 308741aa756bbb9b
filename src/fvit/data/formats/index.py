"""The index of WebDataset shards that others have written, made by walking their headers once."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from fvit.data import pool
from fvit.data.formats.scan import scan
from fvit.data.formats.tar import load_index
from fvit.data.storage.atomic import replacing
from fvit.data.storage.base import File, LocalStorage, Storage

_log = logging.getLogger(__name__)

# Changes when the same shards would give another index.
_VERSION = 1

# A shard of 1,250 images takes 0.1 s, and processes take that to start; from here on they pay.
_MANY_SHARDS = 16
_MOST_WORKERS = 8


def build(place: Storage, shards: Sequence[File], cache: Path) -> tuple[Path, np.ndarray]:
    """The index of `shards` and the number of images in each: from `cache`, or made now and kept there.

    A shard whose size or version has changed is another shard. Of several processes one works and the others wait.
    Each shard's part is kept as soon as it is made, so that an interrupted build goes on.

    Raises:
        DataError: a shard is damaged or holds what no shard should; see `fvit.data.formats.scan`.
    """
    described = [_VERSION, place.root, [[shard.name, shard.size, shard.version] for shard in shards]]
    folder = cache / "index" / hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
    index, counts = folder / "index.npy", folder / "counts.npy"
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            _log.info("waiting for another process that makes the index of %s", place.root)
            lock.acquire()
        try:
            if not index.is_file():
                _make(place, shards, folder / "parts", index, counts)
        finally:
            lock.release()
    return index, np.load(counts, allow_pickle=False)


def _make(place: Storage, shards: Sequence[File], parts: Path, index: Path, counts: Path) -> None:
    parts.mkdir(exist_ok=True)
    kept = [parts / f"{number}.npy" for number in range(len(shards))]
    todo = [(shard, part) for shard, part in zip(shards, kept, strict=True) if not part.is_file()]
    advance = _Progress(place.root, len(shards), len(shards) - len(todo))
    # Fetched shards come one by one, so that a cache that holds only some of them does.
    here = isinstance(place, LocalStorage) and len(todo) >= _MANY_SHARDS
    place.prefetch([shard for shard, _ in todo])
    pool.run(partial(_keep, place), todo, min(os.cpu_count() or 1, _MOST_WORKERS) if here else 0, advance)
    entries = [load_index(part) for part in kept]
    with replacing(counts) as file:
        np.save(file, np.array([len(part) for part in entries], dtype=np.int64), allow_pickle=False)
    with replacing(index) as file:
        np.save(file, np.concatenate(entries), allow_pickle=False)
    shutil.rmtree(parts)


def _keep(place: Storage, task: tuple[File, Path], advance: pool.Advance) -> None:
    shard, part = task
    entries = scan(place.local(shard), f"{place.root.rstrip('/')}/{shard.name}")
    with replacing(part) as file:
        np.save(file, entries, allow_pickle=False)
    advance(1)


class _Progress:
    """A line of the log every few seconds; nothing of what takes less."""

    def __init__(self, root: str, total: int, done: int, seconds: float = 5.0) -> None:
        self.root, self.total, self.done, self.seconds = root, total, done, seconds
        self.first = done
        self.started = self.last = time.monotonic()

    def __call__(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last < self.seconds:
            return
        self.last = now
        left = (now - self.started) / (self.done - self.first) * (self.total - self.done)
        shards = f"{self.done:,} of {self.total:,} shards"
        _log.info("making the index of %s, once: %s, %.0f s left", self.root, shards, left)
