"""What tar and Parquet shards share: random access by image index, a cached index of each file, splits by name."""

import hashlib
import json
import logging
import re
import time
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from timm.data import ImageNetInfo

from fvit.config.cores import usable_cores
from fvit.data import pool
from fvit.data.images import DataError, Images
from fvit.data.storage.base import File, LocalStorage, Storage, replacing

_log = logging.getLogger(__name__)

Index = dict[str, np.ndarray]  # what must be known about a shard to read its images

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# Change this to rebuild every cached index.
_VERSION = 3
# Indexing a tar shard takes 0.1 s, as does starting a process.
_MIN_FILES_FOR_WORKERS = 16
_MAX_WORKERS = 8
_LOG_SECONDS = 5.0


class ShardedImages(Images):
    """Images in shards, numbered shard by shard: `counts` of them in each, labels [N]."""

    def __init__(self, storage: Storage, shards: Sequence[File], counts: Sequence[int], labels: np.ndarray) -> None:
        self.storage, self.shards = storage, list(shards)
        self.labels = np.asarray(labels, dtype=np.int32)
        self._sizes = np.asarray(counts, dtype=np.int64)
        self._ends = np.cumsum(self._sizes).tolist()

    @property
    def shard_sizes(self) -> np.ndarray:
        return self._sizes

    @property
    def window(self) -> int | None:
        return self.storage.window(self.shards)

    def prefetch(self, shards: np.ndarray) -> None:
        self.storage.prefetch([self.shards[shard] for shard in shards])

    def digest(self) -> str:
        """Of the shards' names, sizes and versions."""
        shards = [self.storage.root, *([shard.name, shard.size, shard.version] for shard in self.shards)]
        return hashlib.sha256(json.dumps(shards).encode() + self.labels.tobytes()).hexdigest()

    def _find(self, index: int) -> tuple[int, int]:
        """The shard of an image, and the image's position in it."""
        if not 0 <= index < len(self.labels):
            raise IndexError(f"image {index} of {len(self.labels)}")
        shard = bisect_right(self._ends, index)
        return shard, index - self._ends[shard] + int(self._sizes[shard])

    def _url(self, shard: int) -> str:
        return self.storage.url(self.shards[shard].name)


def index_shards(
    storage: Storage, shards: Sequence[File], cache: Path, read_index: Callable[[Path, str], Index]
) -> list[Index]:
    """The index of each shard, which `read_index` makes of its local path and its name, and which is kept in `cache`.

    It is made again if the shard's size or version changes. An interrupted call resumes with the missing shards. If
    several processes call this, one works and the others wait.
    """
    folder = cache / "index"
    folder.mkdir(parents=True, exist_ok=True)
    described = [[_VERSION, storage.root, shard.name, shard.size, shard.version] for shard in shards]
    keys = [hashlib.sha256(json.dumps(one).encode()).hexdigest()[:32] for one in described]
    paths = {folder / f"{key}.npz": shard for key, shard in zip(keys, shards, strict=True)}
    if not all(path.is_file() for path in paths):
        _log.info("indexing %s, or waiting for a process that already does", storage.root)
        with FileLock(folder / f"{hashlib.sha256(storage.root.encode()).hexdigest()[:32]}.lock"):
            todo = [(shard, path) for path, shard in paths.items() if not path.is_file()]
            # Remote shards are fetched one by one, because the cache may not have room for all of them.
            parallel = isinstance(storage, LocalStorage) and len(todo) >= _MIN_FILES_FOR_WORKERS
            workers = min(usable_cores(), _MAX_WORKERS) if parallel else 0
            storage.prefetch([shard for shard, _ in todo])
            pool.run(partial(_index_shard, storage, read_index), todo, workers, _progress(storage.root, len(todo)))
    return [_load_index(path) for path in paths]


def _index_shard(
    storage: Storage, read_index: Callable[[Path, str], Index], task: tuple[File, Path]
) -> Generator[int, None, None]:
    shard, path = task
    index = read_index(storage.local(shard), storage.url(shard.name))
    with replacing(path) as file:
        np.savez(file, **index)
    yield 1


def _load_index(path: Path) -> Index:
    try:
        with path.open("rb") as file:
            return dict(np.load(file))
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}): delete it to have it rebuilt") from None


def _progress(root: str, total: int) -> pool.Advance:
    """Log the progress of indexing every few seconds."""
    done, started = 0, time.monotonic()
    logged = started

    def advance(count: int) -> None:
        nonlocal done, logged
        done += count
        now = time.monotonic()
        if now - logged >= _LOG_SECONDS:
            logged = now
            eta = (now - started) / done * (total - done)
            _log.info("indexing %s: %d of %d shards, ETA %.0f s", root, done, total, eta)

    return advance


def choose_splits(storage: Storage, files: Sequence[File], kind: str) -> tuple[list[File], list[File]]:
    """The shards for training, and those for validation or else testing, by a word in their names."""
    found: dict[str | None, list[File]] = {"train": [], "val": [], "test": [], None: []}
    for file in files:
        found[split_of(file.name)].append(file)
    train, val = found["train"], found["val"] or found["test"]
    if not train or not val:
        missing = "validation" if train else "training"
        names = ", ".join(file.name for file in files[:5]) + (", …" if len(files) > 5 else "")
        raise DataError(
            f"{storage.root} has no {kind} files for {missing}: it has {names or 'none'}. The split must be a word in "
            "their names or in their folder's: train-0000, validation-00"
        )
    return train, val


def split_of(name: str) -> str | None:
    """``train``, ``val`` or ``test``, from the first such word in the file's name, or else in the nearest folder's."""
    for part in reversed(name.lower().split("/")):
        for word in re.split(r"[^a-z]+", part):
            if word in _SPLITS:
                return _SPLITS[word]
    return None


def default_class_names(labels: np.ndarray) -> list[str]:
    """Class names for a dataset without any: WordNet IDs if there are 1,000 classes, as in ImageNet, else numbers."""
    present = np.bincount(np.maximum(labels, 0)) > 0
    if len(present) == 1000 and present.all():
        _log.info(
            "the shards name no classes: their 1,000 labels are taken for ImageNet's, in the order of its WordNet IDs"
        )
        return ImageNetInfo().label_names()
    if not present.all():
        _log.warning("labels go up to %d, but %d of them have no training image", len(present) - 1, (~present).sum())
    return [str(label) for label in range(len(present))]
