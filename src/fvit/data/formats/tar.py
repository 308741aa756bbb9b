"""Images read in place from tar shards, through an index of where each lies."""

import os
import resource
import tarfile
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from fvit.data.faults import Deadline
from fvit.data.images import BadImage, DataError, Images
from fvit.data.storage.base import File, Storage

ENTRY = np.dtype([("offset", "<u8"), ("size", "<u4"), ("label", "<i4"), ("crc", "<u4")])
"""One image: first byte in its shard and length of its data, label, CRC-32 (0 where it is not known)."""


def _most_open() -> int:
    """Shards of one set to hold open: a part of the files that a process may have, which are often 1,024."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if limit == resource.RLIM_INFINITY else max(1, limit // 4)


class TarImages(Images):
    """Images of tar shards, numbered shard by shard. The index is mapped from its file: 20 bytes an image, shared by
    all processes of a machine.

    Args:
        place: where the shards lie.
        shards: its files, with the sizes they had when they were indexed.
        counts: [shards]: images in each.
        index: a .npy file of `ENTRY` [N].
        has_crc: whether the index knows the images' checksums.

    Raises:
        DataError: the index is no such file, or points outside the shards.
    """

    def __init__(self, place: Storage, shards: Sequence[File], counts: np.ndarray, index: Path, has_crc: bool) -> None:
        self._arguments = (place, shards, counts, index, has_crc)
        self._place, self._shards, self._has_crc = place, list(shards), has_crc
        self._counts = np.asarray(counts, dtype=np.int64)
        self._ends = np.cumsum(self._counts).tolist()
        self._entries = load_index(index)
        self.labels = self._entries["label"]
        if len(self._entries) != sum(self._counts):
            raise DataError(f"{index} has {len(self._entries):,} images and its shards {sum(self._counts):,}")
        self._check_bounds(index)
        # A name of this object in what is kept would keep the files open until the garbage collector comes.
        files = self._shards
        self._file = lru_cache(_most_open())(lambda shard: _OpenFile(place.local(files[shard])))

    def read(self, index: int) -> bytes:
        """The encoded image."""
        shard = self._shard(index)
        offset, size, _, crc = self._entries[index].item()
        if not size:
            raise BadImage(f"{self.locate(index)} is empty")
        try:
            data = self._file(shard).read(size, offset)
        except OSError:
            # A handle that has gone stale stays so, and a second try must not meet it again.
            self._file.cache_clear()
            raise
        if len(data) != size:
            raise DataError(
                f"{self._name(shard)} ends within an image, at byte {offset + len(data):,}: it was truncated after it "
                "was opened. Fetch it again"
            )
        if self._has_crc and crc32(data) != crc:
            raise BadImage(f"{self.locate(index)} is damaged: its CRC-32 is not that of the index")
        return data

    def locate(self, index: int) -> str:
        """The shard, and the member in it if its header can be read."""
        shard = self._shard(index)
        offset = int(self._entries["offset"][index])
        try:
            header = self._file(shard).read(tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
            member = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace").name
        except (OSError, DataError, tarfile.HeaderError):
            member = f"the image at byte {offset:,}"
        return f"{self._name(shard)}: {member}"

    @property
    def shard_sizes(self) -> np.ndarray:
        """Images a shard, int64 [shards]."""
        return self._counts

    @property
    def window(self) -> int | None:
        """Shards that may be mixed at a time."""
        return self._place.window(self._shards)

    def prefetch(self, shards: np.ndarray) -> None:
        """Begin to fetch these shards, in this order."""
        self._place.prefetch([self._shards[shard] for shard in shards])

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker that is not forked maps the index anew instead of getting a copy of it.
        return TarImages, self._arguments

    def _shard(self, index: int) -> int:
        if not 0 <= index < len(self._entries):
            raise IndexError(f"image {index} of {len(self._entries)}")
        return bisect_right(self._ends, index)

    def _name(self, shard: int) -> str:
        return f"{self._place.root.rstrip('/')}/{self._shards[shard].name}"

    def _check_bounds(self, index: Path) -> None:
        """Offsets beyond a shard's end would read as truncated images later, one by one."""
        sizes = np.repeat(np.array([shard.size for shard in self._shards], dtype=np.uint64), self._counts)
        offsets = self._entries["offset"]
        outside = (offsets > sizes) | (self._entries["size"] > sizes - offsets)
        if outside.any():
            raise DataError(f"{index} points beyond the end of {self._name(self._shard(int(outside.argmax())))}")


class _OpenFile:
    """Closed when nobody reads from it any more, so that a thread may drop it while another reads. It is read by
    position alone, so that processes forked from this one may share it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, size: int, offset: int) -> bytes:
        with Deadline(f"reading {size:,} bytes at {offset:,}"):
            return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def load_index(path: Path) -> np.ndarray:
    """`ENTRY` [N], mapped from its file.

    Raises:
        DataError: it is no such file.
    """
    try:
        entries = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is no index of images ({error}); delete it, and it is made or fetched anew") from None
    if not isinstance(entries, np.ndarray) or entries.dtype != ENTRY or entries.ndim != 1:
        raise DataError(f"{path} is no index of images; delete it, and it is made or fetched anew")
    # Without the subclass, whose indexing is slow.
    return entries.view(np.ndarray)
