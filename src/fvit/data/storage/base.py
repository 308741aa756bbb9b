"""Storage of a dataset's files: the interface, a local folder, and atomic writes."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

from fvit.data.images import DataError
from fvit.data.listing import some, walk

PARTIAL = ".partial"


@dataclass(frozen=True)
class File:
    """A file in a storage."""

    name: str  # path relative to the root, with forward slashes
    size: int  # in bytes
    version: str = ""  # modification time or ETag, which changes with the content; empty if unknown
    sha256: str | None = None  # hex digest, if known


class Storage(ABC):
    """A folder, local or remote."""

    root: str  # path or URL as the user wrote it, but without credentials
    capacity: int | None = None  # bytes of it that fit on this machine at a time; None if all of it is local

    @abstractmethod
    def files(self, suffixes: Sequence[str]) -> list[File]:
        """All files with one of these suffixes, at any depth, sorted by name; hidden files are skipped."""

    @abstractmethod
    def local(self, file: File) -> Path:
        """Local path of the complete file, which is fetched if necessary; an error if its size or checksum differs."""

    def prefetch(self, files: Sequence[File]) -> None:  # noqa: B027 (a local folder has nothing to fetch)
        """Start fetching these files in the background, in this order, instead of those of an earlier call."""

    def url(self, name: str) -> str:
        """The file called `name`, as error messages show it."""
        return f"{self.root.rstrip('/')}/{name}"

    def window(self, files: Sequence[File]) -> int | None:
        """How many of these files may be in use at a time; None if all of them fit on this machine."""
        if self.capacity is None or sum(file.size for file in files) <= self.capacity:
            return None
        # A third of the capacity: another third is for prefetched files, and the rest for the validation set.
        return max(1, self.capacity // (3 * max(file.size for file in files)))


class LocalStorage(Storage):
    """A folder on this machine."""

    def __init__(self, root: str | Path) -> None:
        self.path = Path(root).expanduser()
        self.root = str(root)
        if not self.path.is_dir():
            raise DataError(f"{self.path} is not a folder")

    def files(self, suffixes: Sequence[str]) -> list[File]:
        found, broken = [], []
        for folder, names in walk(str(self.path), lambda name: name.endswith(tuple(suffixes)), broken):
            for name in names:
                status = (self.path / folder / name).stat()
                relative = PurePath(folder, name).as_posix()
                found.append(File(relative, status.st_size, str(status.st_mtime_ns)))
        if broken:
            raise DataError(f"{some(broken, '; ')}: repair or remove it")
        return sorted(found, key=lambda file: file.name)

    def local(self, file: File) -> Path:
        path = self.path / file.name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise DataError(f"{path} is missing") from None
        if size != file.size:
            raise DataError(f"{path} has {size:,} bytes instead of {file.size:,}: it was changed or truncated")
        return path


def redact(text: str) -> str:
    """`text` without the user names, passwords and queries of its URLs, which may contain secrets."""
    text = re.sub(r"(\w+://)[^/\s?#]*[?#][^/\s]*@\S*", r"\1", text)  # a password with an unquoted ? or #
    text = re.sub(r"(\w+://)[^/\s?#]*@", r"\1", text)
    return re.sub(r"(\w+://[^\s?#]*)[?#]\S*", r"\1", text)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing (and reading) that becomes `path` on success and is deleted on error.

    Its name contains the process ID: a killed process and the one that repeats its work never share a file.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
