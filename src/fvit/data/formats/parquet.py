"""Images in Parquet files in Hugging Face's format: columns image{bytes, path} and label."""

import json
import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fvit.data.formats.shards import Index, ShardedImages, choose_splits, default_class_names, index_shards
from fvit.data.images import BadImage, DataError
from fvit.data.storage.base import File, Storage

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_log = logging.getLogger(__name__)

_IMAGE, _LABEL = "image.bytes", "label"
_MAX_OPEN_FILES = 16  # per process; a file's footer takes up to 1 MB
_MAX_GROUP = 8  # rows; in larger groups most of the time goes into reading the others


class ParquetImages(ShardedImages):
    """Rows of Parquet files.

    Reading a row reads its whole row group, of which the last is kept. Measured with images of 110 KB in memory: 5 ms
    per image in groups of 100 rows (``ILSVRC/imagenet-1k``), 0.4 to 0.9 ms in groups of 10, 0.1 ms in sequential order;
    tar shards take 0.02 ms in any order. Memory mapping would save up to a third, but a truncated file would then kill
    the process without a message.
    """

    def __init__(self, storage: Storage, shards: Sequence[File], indices: Sequence[Index]) -> None:
        labels = [index["labels"] for index in indices]
        super().__init__(storage, shards, [len(part) for part in labels], np.concatenate(labels))
        self.indices = indices
        self._group_starts = [np.cumsum([0, *index["group_rows"]]).tolist() for index in indices]
        files = self.shards  # a closure over self would keep the files open until the garbage collector runs

        def open_shard(process: int, shard: int) -> "pq.ParquetFile":
            return _open(storage.local(files[shard]), storage.url(files[shard].name))

        self._open = lru_cache(_MAX_OPEN_FILES)(open_shard)  # per process: forks must not share an open file
        self._read_group = lru_cache(1)(self._read_group)

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetImages, (self.storage, self.shards, self.indices)

    def read(self, index: int) -> bytes:
        shard, row = self._find(index)
        group = bisect_right(self._group_starts[shard], row) - 1
        column = self._read_group(os.getpid(), shard, group)
        content = column[row - self._group_starts[shard][group]].as_py()
        if not content:
            raise BadImage(f"{self.locate(index)}: the image is {'null' if content is None else 'empty'}")
        return content

    def locate(self, index: int) -> str:
        """The file and the row in it."""
        shard, row = self._find(index)
        return f"{self._url(shard)}, row {row}"

    def _read_group(self, process: int, shard: int, group: int) -> "pa.ChunkedArray":
        with _errors_named(self._url(shard)):
            table = self._open(process, shard).read_row_group(group, columns=[_IMAGE], use_threads=False)
        if table.num_rows != self.indices[shard]["group_rows"][group]:
            raise DataError(f"{self._url(shard)} has changed since the run started")
        return table.flatten().column(0)  # a null image becomes null bytes


def open_parquet(storage: Storage, cache: Path) -> tuple[ParquetImages, ParquetImages, list[str]]:
    """The training images, the validation images, and the class names."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise DataError(f"{storage.root} contains Parquet, which needs pyarrow: pip install 'fvit[parquet]'") from None
    train, val = (
        ParquetImages(storage, files, index_shards(storage, files, cache, read_index))
        for files in choose_splits(storage, storage.files([".parquet"]), "Parquet")
    )
    largest = max(int(index["group_rows"].max(initial=0)) for index in train.indices)
    if largest > _MAX_GROUP:
        _log.warning(
            "%s: reading one image of a shuffled epoch reads its whole row group of up to %d images; "
            "`fvit-prepare data.root=%s out=…` writes shards with fast random access",
            *(storage.root, largest, storage.root),
        )
    return train, val, _class_names(train, val) or default_class_names(train.labels)


def _class_names(train: ParquetImages, val: ParquetImages) -> list[str] | None:
    """Those that the files record; None if none does.

    Raises:
        DataError: two files give different names to the same labels.
    """
    first, known = "", None
    for images in (train, val):
        for shard, index in enumerate(images.indices):
            features = json.loads(index["huggingface"].tobytes() or "{}").get("info", {}).get("features", {})
            names = features.get(_LABEL, {}).get("names")
            if known and names and names != known:
                differing = ", ".join(sorted({*names} ^ {*known})) or "they are in another order"
                raise DataError(f"the classes of {first} and {images._url(shard)} differ: {differing}")
            if names and known is None:
                first, known = images._url(shard), names
    return known


def read_index(path: Path, name: str) -> Index:
    """``group_rows`` [groups], ``labels`` [rows], and ``huggingface``, uint8: JSON about the columns."""
    with _errors_named(name), _open(path, name) as parquet:
        _check_columns(name, parquet.schema_arrow)
        labels = parquet.read(columns=[_LABEL], use_threads=False).column(0).cast("int32")
        group_rows = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        huggingface = (parquet.schema_arrow.metadata or {}).get(b"huggingface", b"")
    if labels.null_count:
        raise DataError(f"{name}: {labels.null_count} of {len(labels)} labels are null")
    return {
        "group_rows": np.array(group_rows, dtype=np.int64),
        "labels": labels.to_numpy(),
        "huggingface": np.frombuffer(huggingface, dtype=np.uint8),
    }


def _check_columns(name: str, schema: "pa.Schema") -> None:
    import pyarrow as pa

    found = {field.name: field.type for field in schema}
    image, label = found.get("image", pa.null()), found.get(_LABEL, pa.null())
    parts = {part.name: part.type for part in image} if pa.types.is_struct(image) else {}
    if parts.get("bytes") not in (pa.binary(), pa.large_binary()) or not pa.types.is_integer(label):
        columns = ", ".join(f"{column} ({kind})" for column, kind in found.items())
        raise DataError(f"{name} needs the columns image{{bytes, path}} and label (an integer), but has {columns}")


def _open(path: Path, name: str) -> "pq.ParquetFile":
    import pyarrow.parquet as pq

    with _errors_named(name):
        return pq.ParquetFile(path, page_checksum_verification=True)


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Turn errors of pyarrow into a DataError that names the file; system errors pass through."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        # pyarrow reports damage as an OSError without errno.
        if isinstance(error, OSError) and (error.errno is not None or isinstance(error, TimeoutError)):
            raise
        reason = " ".join(str(error).split())
        raise DataError(f"{name} cannot be read as Parquet: {reason}. Fetch it again") from None
