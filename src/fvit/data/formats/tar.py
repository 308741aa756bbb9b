"""Images in tar shards, read in place through an index of their byte offsets."""

import hashlib
import os
import resource
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fvit.data.faults import deadline
from fvit.data.formats import manifest
from fvit.data.formats.shards import ShardedImages, choose_splits, default_class_names, index_shards
from fvit.data.formats.webdataset import scan
from fvit.data.images import BadImage, DataError
from fvit.data.storage.base import File, Storage

try:
    from isal.isal_zlib import crc32
except ImportError:  # the same numbers, at a sixteenth of the speed
    from zlib import crc32


class TarImages(ShardedImages):
    """Images in tar shards, whose `entries` are `ENTRY` [N]."""

    def __init__(self, storage: Storage, shards: Sequence[File], counts: Sequence[int], entries: np.ndarray) -> None:
        super().__init__(storage, shards, counts, entries["label"])
        self.entries = entries
        files = self.shards  # a closure over self would keep the files open until the garbage collector runs
        self._open = lru_cache(_max_open_files())(lambda shard: _OpenFile(storage.local(files[shard])))

    def __reduce__(self) -> tuple[Any, ...]:
        return TarImages, (self.storage, self.shards, self.shard_sizes, self.entries)

    def read(self, index: int) -> bytes:
        shard, _ = self._find(index)
        offset, size, _, crc = self.entries[index].item()
        if not size:
            raise BadImage(f"{self.locate(index)} is empty")
        try:
            data = self._open(shard).read(size, offset)
        except OSError:
            self._open.cache_clear()  # a stale file handle would fail again in the next attempt
            raise
        if len(data) != size:
            raise DataError(f"{self._url(shard)} was truncated to {offset + len(data):,} bytes: fetch it again")
        if crc and crc32(data) != crc:
            raise BadImage(f"{self.locate(index)} is damaged: its CRC-32 does not match the index")
        return data

    def locate(self, index: int) -> str:
        """The shard, and the member's name if its header can be read."""
        shard, _ = self._find(index)
        offset = int(self.entries["offset"][index])
        try:
            header = self._open(shard).read(tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
            member = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace").name
        except (OSError, DataError, tarfile.HeaderError):
            member = f"the image at byte {offset:,}"
        return f"{self._url(shard)}: {member}"


class _OpenFile:
    """Closed with its last reference, so one thread may evict it while another reads; read by position, as forks do."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, size: int, offset: int) -> bytes:
        with deadline(f"reading {size:,} bytes at {offset:,}"):
            return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def _max_open_files() -> int:
    """A quarter of the files that this process may open, often 1,024."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if limit == resource.RLIM_INFINITY else max(1, limit // 4)


def open_tars(storage: Storage, cache: Path) -> tuple[TarImages, TarImages, list[str]]:
    """The training images, the validation images, and the class names, of fvit-prepare or of WebDataset shards."""
    files = {file.name: file for file in storage.files([".tar", ".npy", manifest.NAME])}
    if manifest.NAME in files:
        return _open_prepared(storage, files)
    shards = [file for name, file in files.items() if name.endswith(".tar")]
    train, val = (_open_webdataset(storage, split, cache) for split in choose_splits(storage, shards, "tar"))
    return train, val, default_class_names(train.labels)


def _open_webdataset(storage: Storage, shards: Sequence[File], cache: Path) -> TarImages:
    entries = [index["entries"] for index in index_shards(storage, shards, cache, scan)]
    return TarImages(storage, shards, [len(part) for part in entries], np.concatenate(entries))


def _open_prepared(storage: Storage, files: dict[str, File]) -> tuple[TarImages, TarImages, list[str]]:
    def expected(entry: manifest.FileEntry) -> File:
        found = files.get(entry.name)
        if found is None or found.size != entry.size:
            problem = "is missing" if found is None else f"has {found.size:,} bytes instead of {entry.size:,}"
            remedy = f"fetch it again, and check the others: fvit-prepare verify={storage.root}"
            raise DataError(f"{storage.url(entry.name)} {problem}; {remedy}")
        return File(entry.name, entry.size, found.version, entry.sha256)

    content = manifest.parse(storage.local(files[manifest.NAME]).read_bytes(), storage.url(manifest.NAME))
    opened = []
    for split in content.splits.values():
        shards = [expected(shard) for shard in split.shards]
        path = storage.local(expected(split.index))
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != split.index.sha256:
                raise DataError(f"{path} does not match the manifest's checksum: fetch it again")
        opened.append(TarImages(storage, shards, [shard.images for shard in split.shards], load_entries(path)))
    return opened[0], opened[1], content.classes


def load_entries(path: Path) -> np.ndarray:
    """`ENTRY` [N], mapped from an index that fvit-prepare wrote."""
    return np.load(path, mmap_mode="r").view(np.ndarray)  # indexing a memmap is slow
