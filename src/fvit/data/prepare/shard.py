"""Writing one shard: read its images, encode them, and add them to a tar file."""

import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from fvit.data.formats import pillow
from fvit.data.formats.decode import Decoder
from fvit.data.images import BadImage, DataError, Images
from fvit.data.sampler import shards_in_order
from fvit.data.storage.base import replacing

RESUME = "Run the same command to resume"


class ShardTask(NamedTuple):
    """A shard to write: the tar file, a JSON record that marks it as complete, and the indices of its images."""

    name: str
    images: Images
    indices: np.ndarray
    path: Path
    record: Path


class Encoding(NamedTuple):
    """How images are stored."""

    decoder: Decoder  # finds damaged images
    resize: int | None  # shorter side in pixels, for larger images; None keeps all of them unchanged
    quality: int  # of JPEGs, from 1 to 100


def write_shard(encoding: Encoding, skip_bad: bool, task: ShardTask) -> Generator[int, None, None]:
    """Write a shard, always with the same bytes, and its record; yields 1 for each image."""
    try:
        with replacing(task.path) as file:
            record = yield from _fill(file, encoding, skip_bad, task)
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        images = len(record["entries"])
        record["shard"] = {"name": task.name, "size": size, "sha256": digest, "images": images}
        if not images:
            task.path.unlink()
        with replacing(task.record) as file:
            file.write(json.dumps(record).encode())
    except OSError as error:
        raise DataError(f"cannot write {task.path}: {error.strerror or error}. {RESUME}") from error


def _fill(file: BinaryIO, encoding: Encoding, skip_bad: bool, task: ShardTask) -> Generator[int, None, dict[str, Any]]:
    images = task.images
    if images.shard_sizes is not None:
        images.prefetch(shards_in_order(task.indices, images.shard_sizes))
    entries: list[tuple[int, int, int, int]] = []  # fvit.data.formats.webdataset.ENTRY
    skipped: list[dict[str, str]] = []
    bytes_in = 0
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index in task.indices.tolist():
            try:
                image = _read(images, index)
                bytes_in += len(image) if isinstance(image, bytes) else image.nbytes
                data, extension = encode(image, encoding)
            except BadImage as error:
                where = images.locate(index)
                if not skip_bad:
                    raise DataError(f"{where}: {error}. bad=skip leaves out damaged images and lists them") from None
                skipped.append({"name": where, "reason": str(error)})
            else:
                label, key = int(images.labels[index]), _key(index, images.locate(index))
                entries.append((tar.offset + tarfile.BLOCKSIZE, len(data), label, zlib.crc32(data)))
                _add(tar, f"{key}.{extension}", data)
                _add(tar, f"{key}.cls", str(label).encode())
            yield 1
    return {"entries": entries, "skipped": skipped, "bytes_in": bytes_in}


def read_record(task: ShardTask) -> dict[str, Any] | None:
    """The record of a complete shard; None if the shard has yet to be written."""
    try:
        record = json.loads(task.record.read_bytes())
        complete = not record["entries"] or task.path.stat().st_size == record["shard"]["size"]
    except FileNotFoundError:
        return None
    return record if complete else None


def encode(image: bytes | np.ndarray, encoding: Encoding) -> tuple[bytes, str]:
    """The bytes to store, and their file extension.

    Encoded images are stored unchanged, unless they are resized (bicubic with antialiasing): then they become RGB JPEGs
    with 4:2:0 chroma. Pixels, uint8 [H, W] or [H, W, 3], become PNGs.
    """
    pixels = encoding.decoder(image)
    is_encoded = isinstance(image, bytes)
    height, width = pixels.shape[:2]
    resize, short_side = encoding.resize, min(height, width)
    shrinks = resize is not None and short_side > resize
    if is_encoded and not shrinks:
        return image, _extension(image)
    picture = Image.fromarray(pixels if is_encoded else image)
    if shrinks:
        size = (width * resize // short_side, height * resize // short_side)  # rounded as in torchvision's Resize
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if is_encoded:
        picture.save(buffer, "JPEG", quality=encoding.quality, subsampling="4:2:0")
        return buffer.getvalue(), "jpg"
    picture.save(buffer, "PNG")
    return buffer.getvalue(), "png"


def _extension(data: bytes) -> str:
    """From the content, because ImageNet has a PNG called .JPEG."""
    if data.startswith(b"\xff\xd8"):
        return "jpg"
    with Image.open(io.BytesIO(data), formats=pillow.FORMATS) as image:
        return str(image.format).lower()


def _read(images: Images, index: int) -> bytes | np.ndarray:
    try:
        return images.read(index)
    except OSError as error:
        raise DataError(f"cannot read {images.locate(index)}: {error.strerror or error}. {RESUME}") from error


def _key(index: int, where: str) -> str:
    """The image's index, which makes it unique, and its original name up to the first dot."""
    name = re.split(r"[/\\]|: ", where)[-1].partition(".")[0]
    return f"{index:08d}_{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:60]}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # time, owner and group are 0, so the same images give the same bytes
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
