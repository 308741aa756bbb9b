"""One shard: its images read, encoded, and written as a tar file with a note of what is in it."""

import hashlib
import io
import json
import re
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fvit.data.formats import decode
from fvit.data.images import BadImage, DataError, Images
from fvit.data.pool import Advance
from fvit.data.prepare.encode import encode
from fvit.data.sources import Source
from fvit.data.storage.atomic import replacing

GO_ON = "The same command goes on where this one stopped"


@dataclass(frozen=True)
class Task:
    """A shard that is to be written.

    Attributes:
        split: ``train`` or ``val``.
        name: of the tar file, in the folder of shards.
        note: the file that says what is in it, once it is whole.
        indices: which images of the split, in this order.
    """

    split: str
    name: str
    note: Path
    indices: np.ndarray


@dataclass(frozen=True)
class ShardWriter:
    """Writes shards; the same bytes each time.

    Args:
        source: where the images come from.
        out: the folder of shards.
        resize, quality: see `fvit.data.prepare.encode.encode`.
        decoder: its name.
        bad: ``skip`` leaves damaged images out and notes them, ``fatal`` raises.
    """

    source: Source
    out: Path
    resize: int | None
    quality: int
    decoder: str
    bad: str

    def __call__(self, task: Task, advance: Advance) -> None:
        """Write it.

        Raises:
            DataError: an image cannot be read, or is damaged and `bad` is ``fatal``, or the shard cannot be written.
        """
        path = self.out / task.name
        try:
            with replacing(path) as file:
                note = self._fill(file, task, advance)
                size = file.seek(0, io.SEEK_END)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            images = len(note["entries"])
            note["shard"] = {"name": task.name, "size": size, "sha256": digest, "images": images}
            if not images:
                path.unlink()
            with replacing(task.note) as file:
                file.write(json.dumps(note).encode())
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}. {GO_ON}") from error

    def _fill(self, file: BinaryIO, task: Task, advance: Advance) -> dict[str, Any]:
        decoder = decode.choose(self.decoder)
        source: Images = getattr(self.source, task.split)
        if source.shard_sizes is not None:
            source.prefetch(_shards(task.indices, source.shard_sizes))
        entries: list[tuple[int, int, int, int]] = []  # as in fvit.data.formats.tar.ENTRY
        skipped: list[dict[str, str]] = []
        bytes_in = 0
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for index in task.indices.tolist():
                try:
                    image = _read(source, index)
                    bytes_in += len(image) if isinstance(image, bytes) else image.nbytes
                    data, extension = encode(image, decoder, self.resize, self.quality)
                except BadImage as error:
                    where = source.locate(index)
                    if self.bad == "fatal":
                        raise DataError(f"{where}: {error}. bad=skip leaves such images out and lists them") from None
                    skipped.append({"name": where, "reason": str(error)})
                else:
                    label, key = int(source.labels[index]), _key(index, source.locate(index))
                    entries.append((tar.offset + tarfile.BLOCKSIZE, len(data), label, zlib.crc32(data)))
                    _add(tar, f"{key}.{extension}", data)
                    _add(tar, f"{key}.cls", str(label).encode())
                advance(1)
        return {"entries": entries, "skipped": skipped, "bytes_in": bytes_in}


def read_note(task: Task, out: Path) -> dict[str, Any] | None:
    """What is in a shard that is whole; None if it is still to be written."""
    try:
        note = json.loads(task.note.read_bytes())
        whole = not note["entries"] or (out / task.name).stat().st_size == note["shard"]["size"]
    except FileNotFoundError:
        return None
    return note if whole else None


def _shards(indices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The shards that the images lie in, in the order of their first use."""
    shards, first = np.unique(np.searchsorted(np.cumsum(sizes), indices, side="right"), return_index=True)
    return shards[np.argsort(first)]


def _read(images: Images, index: int) -> Any:
    try:
        return images.read(index)
    except OSError as error:
        raise DataError(f"cannot read {images.locate(index)}: {error.strerror or error}. {GO_ON}") from error


def _key(index: int, where: str) -> str:
    """The image's number, which makes it unique, and its old name up to the first dot, for people."""
    name = re.split(r"[/\\]|: ", where)[-1].partition(".")[0]
    return f"{index:08d}_{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:60]}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # Of time, owner and group a TarInfo has zeros, so that the same images give the same bytes.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
