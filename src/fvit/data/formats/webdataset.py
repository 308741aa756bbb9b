"""The index of a WebDataset shard, with members KEY.jpg and either KEY.cls or KEY.json with a label."""

import codecs
import json
import os
import re
import tarfile
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from fvit.data.images import DataError

ENTRY = np.dtype([("offset", "<u8"), ("size", "<u4"), ("label", "<i4"), ("crc", "<u4")])
"""One image: first byte and length of its data in the shard, label, CRC-32 (0 if unknown)."""

IMAGES = frozenset(("jpg", "jpeg", "png", "webp", "avif", "bmp", "gif", "pgm", "ppm", "tif", "tiff"))
"""Extensions of image members, in lower case."""

_ARCHIVES = frozenset(("gz", "tgz", "bz2", "xz", "zst", "lz4", "zip", "tar"))
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}

# A key may contain dots; hidden files have none.
_KEY = re.compile(r"(?P<key>(?:.*/)?[^./][^/]*)\.(?P<extension>[^./]+)")

# Larger labels are a mistake, for which arrays by class would take too much memory.
_MAX_CLASSES = 1_000_000
_MAX_LABEL_BYTES = 64
_MAX_JSON_BYTES = 1 << 20


class _Span(NamedTuple):
    offset: int
    size: int


def scan(path: Path, name: str) -> dict[str, np.ndarray]:
    """``entries``: `ENTRY` [N], the images of the shard called `name` in member order, without checksums.

    Only headers and labels are read; members of other kinds are ignored. Rejects a shard that is truncated, damaged or
    compressed, or contains a link, an unsafe or duplicate name, an image without a label, or the reverse.
    """
    with path.open("rb") as file:
        head = file.read(8)
        if kind := next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None):
            raise DataError(f"{name} is compressed ({kind}), but images are read in place: decompress it to a .tar")
        file.seek(0)
        images, labels, sidecars = _walk(file, name)
        for key in images.keys() - labels.keys():
            if key in sidecars:
                labels[key] = _label_from_json(file.fileno(), sidecars[key], name, f"{key}.json")
            elif not _is_part(key, images):
                _reject(name, key, "an image without a label: add KEY.cls, or KEY.json with 'label'")
    for key in labels.keys() - images.keys():
        if not _is_part(key, images):
            _reject(name, key, f"a label without an image ({', '.join(sorted(IMAGES))})")
    images = {key: span for key, span in images.items() if key in labels}
    if not images:
        raise DataError(f"{name} contains no images ({', '.join(sorted(IMAGES))})")
    rows = [(offset, size, labels[key], 0) for key, (offset, size) in images.items()]
    return {"entries": np.array(rows, dtype=ENTRY)}


def _walk(file: BinaryIO, name: str) -> tuple[dict[str, _Span], dict[str, int], dict[str, _Span]]:
    """By key: the images, the labels in .cls members, and the .json members."""
    images, labels, sidecars, seen = {}, {}, {}, set()
    descriptor = file.fileno()
    length = os.fstat(descriptor).st_size
    last = "its beginning"
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
            for member in tar:
                _check_member(member, seen, length, name)
                last = member.name
                seen.add(last)
                match = _KEY.fullmatch(last) if member.isreg() else None
                if match is None:
                    continue
                key, extension = match["key"], match["extension"].lower()
                span = _Span(member.offset_data, member.size)
                if extension in IMAGES:
                    if key in images:
                        _reject(name, last, "a second image with the same key")
                    images[key] = span
                elif extension == "cls":
                    text = os.pread(descriptor, min(span.size, _MAX_LABEL_BYTES), span.offset)
                    labels[key] = _label(text.removeprefix(codecs.BOM_UTF8).decode("latin-1"), name, last)
                elif extension == "json":
                    sidecars[key] = span
                elif extension in _ARCHIVES:
                    _reject(name, last, "a compressed file or an archive within the archive: unpack it")
            end = tar.offset
    except DataError:
        raise
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError) as error:  # from parsing a damaged header
        raise DataError(f"{name} is truncated or damaged after {last} ({error}): fetch it again") from None
    _check_end(descriptor, end, length, name, last)
    return images, labels, sidecars


def _is_part(key: str, images: dict[str, _Span]) -> bool:
    """Whether a key without image or label belongs to an image with a shorter key, as that of KEY.seg.png does."""
    folder, base = os.path.split(key)
    parts = base.split(".")
    return any(os.path.join(folder, ".".join(parts[:count])) in images for count in range(1, len(parts)))


def _check_member(member: tarfile.TarInfo, seen: set[str], length: int, name: str) -> None:
    if not (member.isreg() or member.isdir()) or member.issparse():
        _reject(name, member.name, "a link, a device or a sparse file; shards contain regular files")
    if member.name.startswith("/") or ".." in member.name.split("/"):
        _reject(name, member.name, "a path outside the archive")
    if member.isreg() and member.name in seen:
        _reject(name, member.name, "a duplicate name")
    if member.size < 0 or member.offset_data + member.size > length:
        raise DataError(f"{name} is truncated within {member.name}: fetch it again")
    if member.size >= 1 << 32:
        _reject(name, member.name, "larger than 4 GB")


def _check_end(descriptor: int, end: int, length: int, name: str, last: str) -> None:
    """Check for the two blocks of zeros at the end of a tar file, which only zeros may follow."""
    if length - end < 2 * tarfile.BLOCKSIZE:
        raise DataError(f"{name} is truncated after {last}, without the end of a tar file: fetch it again")
    chunk = 1 << 20
    for offset in range(end, length, chunk):
        if os.pread(descriptor, chunk, offset).strip(b"\0"):
            raise DataError(f"{name} is damaged after {last}: there is no member header at byte {end:,}")


def _label(text: str, name: str, member: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,12}\s*", text) or int(text) >= _MAX_CLASSES:
        _reject(name, member, f"{text.strip()[:40]!r} is not a label (0, 1, 2, …)")
    return int(text)


def _label_from_json(descriptor: int, span: _Span, name: str, member: str) -> int:
    try:
        label = json.loads(os.pread(descriptor, min(span.size, _MAX_JSON_BYTES), span.offset))["label"]
    except (ValueError, TypeError, KeyError, RecursionError):
        _reject(name, member, "not a JSON object with a 'label', and there is no KEY.cls")
    return _label(json.dumps(label), name, member)


def _reject(name: str, member: str, reason: str) -> NoReturn:
    raise DataError(f"{name}: {member}: {reason}")
