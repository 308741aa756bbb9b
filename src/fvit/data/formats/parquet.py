"""Images in Parquet files, as Hugging Face keeps them: columns image{bytes, path} and label."""

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from filelock import FileLock

from fvit.data.formats.shards import class_names, splits
from fvit.data.images import BadImage, DataError, Images
from fvit.data.storage.atomic import replacing
from fvit.data.storage.base import File, LocalStorage, Storage

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_log = logging.getLogger(__name__)

_IMAGE, _LABEL = "image.bytes", "label"
# What a process keeps: row groups up to this size, and open files, whose footers take up to 1 MB each.
_KEPT_BYTES, _KEPT_FILES = 64 << 20, 16
_THREADS = 8
_LARGE_GROUP = 8  # rows; of more, reading the others is what an image costs
# Changes when the same file would give another layout.
_VERSION = 1


class _Layout(NamedTuple):
    """What must be known of a file before an image of it is read.

    Attributes:
        group_rows: int64 [G], of its row groups.
        labels: int64 [rows].
        huggingface: uint8: JSON, what Hugging Face says of the columns; may be empty.
    """

    group_rows: np.ndarray
    labels: np.ndarray
    huggingface: np.ndarray


class ParquetImages(Images):
    """Rows of Parquet files.

    Parquet is read by row groups: an image in random order costs all of its group. Measured with images of 110 KB on
    a warm cache: 5 ms an image in groups of 100 rows (as ``ILSVRC/imagenet-1k`` has them), 0.4 to 0.9 ms in groups of
    10, 0.1 ms where neighbours are read one after the other. Tar shards take 0.02 ms in any order. Files are not
    mapped into memory, which would save up to a third: to read behind the end of a file that was truncated under its
    map kills the process without a message.

    Args:
        place: of the files.
        files: one or more.
        layouts: of these files.
    """

    def __init__(self, place: Storage, files: Sequence[File], layouts: Sequence[_Layout]) -> None:
        self.place, self.files = place, list(files)
        self.labels = np.concatenate([layout.labels for layout in layouts]).astype(np.int32)
        self._group_starts = _starts(np.concatenate([layout.group_rows for layout in layouts]))
        self._first_group = _starts([len(layout.group_rows) for layout in layouts])
        self._file_starts = _starts([len(layout.labels) for layout in layouts])
        self._forget()

    def read(self, index: int) -> bytes:
        """The encoded image."""
        group = int(np.searchsorted(self._group_starts, index, side="right")) - 1
        content = self._group(group)[index - int(self._group_starts[group])].as_py()
        if not content:
            raise BadImage(f"{self.locate(index)}: the image is {'null' if content is None else 'empty'}")
        return content

    def locate(self, index: int) -> str:
        """The file, and the row in it."""
        file = int(np.searchsorted(self._file_starts, index, side="right")) - 1
        return f"{_name(self.place, self.files[file])}, row {index - int(self._file_starts[file])}"

    @property
    def shard_sizes(self) -> np.ndarray:
        """Rows a file."""
        return np.diff(self._file_starts)

    @property
    def window(self) -> int | None:
        """Files that may be mixed at a time."""
        return self.place.window(self.files)

    def prefetch(self, shards: np.ndarray) -> None:
        """Begin to fetch these files."""
        self.place.prefetch([self.files[shard] for shard in shards])

    def _group(self, group: int) -> "pa.ChunkedArray":
        if os.getpid() != self._process:
            self._forget()
        if group in self._groups:
            self._groups.move_to_end(group)
            return self._groups[group]
        file = int(np.searchsorted(self._first_group, group, side="right")) - 1
        opened, number = self._open(file), group - int(self._first_group[file])
        with _named(self.place, self.files[file]):
            table = opened.read_row_group(number, columns=[_IMAGE], use_threads=False)
        rows = int(self._group_starts[group + 1] - self._group_starts[group])
        if table.num_rows != rows:
            raise DataError(f"{_name(self.place, self.files[file])} has changed since the run began")
        # Flattening carries a null image over to its bytes.
        self._groups[group] = table.flatten().column(0)
        self._kept_bytes += self._groups[group].nbytes
        while len(self._groups) > 1 and self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= self._groups.popitem(last=False)[1].nbytes
        return self._groups[group]

    def _open(self, file: int) -> "pq.ParquetFile":
        if file not in self._open_files:
            self._open_files[file] = _open(self.place, self.files[file])
            while len(self._open_files) > _KEPT_FILES:
                self._open_files.popitem(last=False)[1].close()
        self._open_files.move_to_end(file)
        return self._open_files[file]

    def _forget(self) -> None:
        # Files and row groups belong to one process: a forked one opens its own.
        self._process: int | None = os.getpid()
        self._open_files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._kept_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        # A spawned process finds that it is another one, and forgets.
        return {**self.__dict__, "_process": None, "_open_files": None, "_groups": None}


def open_parquet(place: Storage, cache: Path) -> tuple[ParquetImages, ParquetImages, list[str]]:
    """The training images, the validation images, and the class names in the order of the labels.

    Class names are those of the Hugging Face schema; without them WordNet ids where there are ImageNet's 1000 classes,
    else numbers. Labels are read from all files at once, in half a second for the 294 of ImageNet; from a URL each file
    is fetched for them, once: they are kept in `cache`.

    Args:
        place: holds files whose names or folders say ``train`` and ``val`` or ``validation`` or, without either,
            ``test``.
        cache: where the labels of fetched files are kept.

    Raises:
        DataError: a split has no file; a file is no Parquet, lacks a column, or holds a label that is no class.
    """
    _require_pyarrow(place)
    by_name = {file.name: file for file in place.files([".parquet"])}
    named = splits(list(by_name))
    chosen = {"training": named["train"], "validation": named["val"] or named["test"]}
    files = {split: [by_name[name] for name in names] for split, names in chosen.items()}
    if missing := next((split for split in files if not files[split]), None):
        raise DataError(
            f"{place.root} has no Parquet file of {missing} images: it has {', '.join(list(by_name)[:5])}. A file is "
            "known by a word in its name, or in its folder's: train-00000.parquet, validation-00000.parquet"
        )
    layouts = {split: _layouts(place, files[split], cache) for split in files}
    classes = _class_names(layouts["training"])
    for split in files:
        for file, layout in zip(files[split], layouts[split], strict=True):
            _check_labels(_name(place, file), layout.labels, len(classes))
    _warn_of_large_groups(place, layouts["training"])
    train, val = (ParquetImages(place, files[split], layouts[split]) for split in files)
    return train, val, classes


def _layouts(place: Storage, files: Sequence[File], cache: Path) -> list[_Layout]:
    if isinstance(place, LocalStorage):
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(partial(_read_layout, place), files))
    return _kept_layouts(place, files, cache / "index")


def _kept_layouts(place: Storage, files: Sequence[File], cache: Path) -> list[_Layout]:
    """The layouts of files that are fetched, one after the other, so that a cache smaller than all of them does.

    Of several processes one works and the others wait.
    """
    cache.mkdir(parents=True, exist_ok=True)
    kept = [cache / f"parquet-{_key(place, file)}.npz" for file in files]
    place.prefetch([file for file, path in zip(files, kept, strict=True) if not path.is_file()])
    layouts = []
    for file, path in zip(files, kept, strict=True):
        with FileLock(cache / "parquet.lock"):
            if not path.is_file():
                layout = _read_layout(place, file)
                with replacing(path) as target:
                    np.savez(target, **layout._asdict())
        with np.load(path, allow_pickle=False) as arrays:
            layouts.append(_Layout(**arrays))
    return layouts


def _key(place: Storage, file: File) -> str:
    described = json.dumps([_VERSION, place.root, file.name, file.size, file.version])
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def _read_layout(place: Storage, file: File) -> _Layout:
    name = _name(place, file)
    with _open(place, file) as parquet, _named(place, file):
        _check_columns(name, parquet.schema_arrow)
        labels = parquet.read(columns=[_LABEL], use_threads=False).column(0)
        group_rows = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        huggingface = (parquet.schema_arrow.metadata or {}).get(b"huggingface", b"")
    if labels.null_count:
        raise DataError(f"{name}: {labels.null_count} of {len(labels)} labels are null")
    labels = labels.to_numpy().astype(np.int64)
    if len(labels) and labels.min() < 0:
        row = int(labels.argmin())
        raise DataError(
            f"{name}, row {row}: label {labels[row]} is negative; images without a label have none to learn"
        )
    return _Layout(
        np.array(group_rows, dtype=np.int64),
        labels,
        np.frombuffer(huggingface, dtype=np.uint8),
    )


def _check_columns(name: str, schema: "pa.Schema") -> None:
    import pyarrow as pa

    found = {field.name: field.type for field in schema}
    image, label = found.get("image", pa.null()), found.get(_LABEL, pa.null())
    parts = {part.name: part.type for part in image} if pa.types.is_struct(image) else {}
    if parts.get("bytes") not in (pa.binary(), pa.large_binary()) or not pa.types.is_integer(label):
        columns = ", ".join(f"{column} ({kind})" for column, kind in found.items())
        raise DataError(f"{name} needs the columns image{{bytes, path}} and label (an integer); it has {columns}")


def _check_labels(name: str, labels: np.ndarray, num_classes: int) -> None:
    if len(labels) and labels.max() >= num_classes:
        row = int(labels.argmax())
        raise DataError(f"{name}, row {row}: label {labels[row]} is none of the classes 0 … {num_classes - 1}")


def _warn_of_large_groups(place: Storage, layouts: Sequence[_Layout]) -> None:
    largest = max(layout.group_rows.max(initial=0) for layout in layouts)
    if largest > _LARGE_GROUP:
        _log.warning(
            "%s: reading one image of a shuffled order reads its whole row group of up to %d images; "
            "`fvit-prepare data.root=%s out=…` makes shards that are read in place",
            *(place.root, largest, place.root),
        )


def _class_names(layouts: Sequence[_Layout]) -> list[str]:
    schema = json.loads(layouts[0].huggingface.tobytes() or "{}")
    names = schema.get("info", {}).get("features", {}).get(_LABEL, {}).get("names")
    return names or class_names(np.concatenate([layout.labels for layout in layouts]))


def _require_pyarrow(place: Storage) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise DataError(f"{place.root} holds Parquet, which needs pyarrow: pip install 'fvit[parquet]'") from None


def _open(place: Storage, file: File) -> "pq.ParquetFile":
    import pyarrow.parquet as pq

    path = place.local(file)
    with _named(place, file):
        return pq.ParquetFile(path, page_checksum_verification=True)


@contextmanager
def _named(place: Storage, file: File) -> Iterator[None]:
    """Errors of pyarrow in `file` as a DataError that names it; an OSError of the system stays what it is."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        # pyarrow reports damage as an OSError without a number.
        if isinstance(error, OSError) and (error.errno is not None or isinstance(error, TimeoutError)):
            raise
        reason = " ".join(str(error).split())
        raise DataError(f"{_name(place, file)} cannot be read as Parquet: {reason}. Fetch it again") from None


def _name(place: Storage, file: File) -> str:
    return f"{place.root.rstrip('/')}/{file.name}"


def _starts(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
