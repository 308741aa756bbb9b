"""One WebDataset shard, walked header by header: members KEY.jpg and KEY.cls, or KEY.json with a label inside."""

import json
import os
import re
import tarfile
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from fvit.data.formats.tar import ENTRY
from fvit.data.images import DataError

IMAGES = frozenset(("jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "tif", "tiff"))
"""Extensions of members that are images, in lower case."""

_ARCHIVES = frozenset(("gz", "tgz", "bz2", "xz", "zst", "lz4", "zip", "tar"))
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}

# The key ends at the first dot of the base name; hidden files have none.
_KEY = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<extension>[^/]+)")

# More than any set of images has classes; a label beyond it is a mistake that would cost memory.
_MOST_CLASSES = 1_000_000
_LONGEST_LABEL = 64
_LONGEST_JSON = 1 << 20


class _Span(NamedTuple):
    offset: int
    size: int


def scan(path: Path, name: str) -> np.ndarray:
    """`fvit.data.formats.tar.ENTRY` [N]: the images of a shard in the order of its members, without checksums.

    Members of other kinds are passed over and never read.

    Args:
        path: of the shard.
        name: of the shard, for messages.

    Raises:
        DataError: it is cut (an intact one ends in two blocks of zeros), damaged or compressed; has a link, a device,
            a name that leads outside or a name twice; an image without a label, a label without an image, or no image.
    """
    with path.open("rb") as file:
        _refuse_compressed(file.read(8), name)
        file.seek(0)
        images, labels, sidecars = _walk(file.fileno(), file, name)
        for key in images.keys() - labels.keys():
            if key not in sidecars:
                _refuse(name, key, "an image without a label: KEY.cls, or KEY.json with 'label', must go with it")
            labels[key] = _label_from_json(file.fileno(), sidecars[key], name, f"{key}.json")
    for key in labels.keys() - images.keys():
        _refuse(name, key, f"a label without an image; images end in {', '.join(sorted(IMAGES))}")
    if not images:
        raise DataError(f"{name} holds no images; they end in {', '.join(sorted(IMAGES))}")
    rows = [(offset, size, labels[key], 0) for key, (offset, size) in images.items()]
    return np.array(rows, dtype=ENTRY)


def _walk(descriptor: int, file: BinaryIO, name: str) -> tuple[dict[str, _Span], dict[str, int], dict[str, _Span]]:
    """Where images lie, labels of .cls members, where .json members lie; all by key."""
    images: dict[str, _Span] = {}
    labels: dict[str, int] = {}
    sidecars: dict[str, _Span] = {}
    seen: set[str] = set()
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
                        _refuse(name, last, "a second image of the same key")
                    images[key] = span
                elif extension == "cls":
                    text = os.pread(descriptor, min(span.size, _LONGEST_LABEL), span.offset)
                    labels[key] = _label(text.decode("latin-1"), name, last)
                elif extension == "json":
                    sidecars[key] = span
                elif extension.rpartition(".")[2] in _ARCHIVES:
                    _refuse(name, last, "an archive or a compressed file in the archive; unpack it")
            end = tar.offset
    except DataError:
        raise
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError) as error:  # what its parsing meets in noise
        raise DataError(f"{name} is cut or damaged after {last} ({error}); fetch it again") from None
    _check_end(descriptor, end, length, name, last)
    return images, labels, sidecars


def _refuse_compressed(head: bytes, name: str) -> None:
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(
                f"{name} is compressed ({kind}), and images in it cannot be read in place; unpack it to a .tar"
            )


def _check_member(member: tarfile.TarInfo, seen: set[str], length: int, name: str) -> None:
    if not member.isreg() and not member.isdir():
        _refuse(name, member.name, "a link or a device; shards hold plain files")
    if member.issparse():
        _refuse(name, member.name, "a sparse file; shards hold plain files")
    if member.name.startswith("/") or ".." in member.name.split("/"):
        _refuse(name, member.name, "a name that leads outside; nobody should need one")
    if member.isreg() and member.name in seen:
        _refuse(name, member.name, "a name that was there before")
    if member.size < 0 or member.offset_data + member.size > length:
        raise DataError(f"{name} is cut within {member.name}; fetch it again")
    if member.size >= 1 << 32:
        _refuse(name, member.name, "larger than 4 GB")


def _check_end(descriptor: int, end: int, length: int, name: str, last: str) -> None:
    """An intact archive ends in two blocks of zeros, and nothing but zeros may follow."""
    closing = 2 * tarfile.BLOCKSIZE
    if length - end < closing:
        raise DataError(f"{name} is cut after {last}: it does not end as a tar file does; fetch it again")
    chunk = 1 << 20
    for offset in range(end, length, chunk):
        if os.pread(descriptor, chunk, offset).strip(b"\0"):
            raise DataError(
                f"{name} is damaged after {last}: what follows, from byte {end:,} on, is no header of a member"
            )


def _label(text: str, name: str, member: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,12}\s*", text) or int(text) >= _MOST_CLASSES:
        _refuse(name, member, f"{text.strip()[:40]!r} is no label: an integer from 0 on")
    return int(text)


def _label_from_json(descriptor: int, span: _Span, name: str, member: str) -> int:
    try:
        content = json.loads(os.pread(descriptor, min(span.size, _LONGEST_JSON), span.offset))
        label = content["label"]
    except (ValueError, TypeError, KeyError, RecursionError):
        _refuse(name, member, "no JSON object with a 'label', and no KEY.cls goes with it")
    return _label(json.dumps(label), name, member)


def _refuse(name: str, member: str, why: str) -> NoReturn:
    raise DataError(f"{name}: {member}: {why}")
