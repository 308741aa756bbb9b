"""Where the files of a data set lie: a folder of this machine, or a URL whose files are fetched."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fvit.data.images import DataError

REMOTE = ("s3", "gs", "http", "https", "hf")


@dataclass(frozen=True)
class File:
    """One file of a place.

    Attributes:
        name: relative to the place, with forward slashes.
        size: in bytes.
        version: changes when the file does: a modification time, an ETag. Empty where the place knows none.
        sha256: of its content, where the place or a manifest knows it.
    """

    name: str
    size: int
    version: str = ""
    sha256: str | None = None


class Storage(ABC):
    """A folder somewhere.

    Attributes:
        root: as the user wrote it, without credentials: fit for messages.
        capacity: bytes that this machine can hold of it at a time; None where all of it lies here.
    """

    root: str
    capacity: int | None = None

    @abstractmethod
    def files(self, suffixes: Sequence[str]) -> list[File]:
        """The files whose names end so, at any depth, sorted by name; hidden ones are left out.

        Raises:
            DataError: the place does not exist or cannot be reached.
        """

    @abstractmethod
    def local(self, file: File) -> Path:
        """The file on this machine, whole and with the size (and checksum) that `file` says.

        Raises:
            DataError: it is missing, or is not what `file` says.
        """

    def window(self, files: Sequence[File]) -> int | None:
        """How many of these files may be in use at a time; None for all.

        A third of what the machine can hold: as much again is fetched ahead meanwhile, and there is a validation set.
        """
        if self.capacity is None or sum(file.size for file in files) <= self.capacity:
            return None
        return max(1, self.capacity // (3 * max(file.size for file in files)))

    def prefetch(self, files: Sequence[File]) -> None:  # noqa: B027 (a folder has nothing to fetch)
        """Begin to make these files local, in this order, in the background; replaces what was asked for before."""


class LocalStorage(Storage):
    """A folder of this machine."""

    def __init__(self, root: str | Path) -> None:
        self.path = Path(root).expanduser()
        self.root = str(root)
        if not self.path.is_dir():
            raise DataError(f"{self.path} is not a folder")

    def files(self, suffixes: Sequence[str]) -> list[File]:
        """The files whose names end so."""
        found = []
        for folder, names, files in os.walk(self.path, followlinks=True):
            names[:] = sorted(name for name in names if not name.startswith("."))
            for name in files:
                if name.endswith(tuple(suffixes)) and not name.startswith("."):
                    path = Path(folder, name)
                    status = path.stat()
                    relative = path.relative_to(self.path).as_posix()
                    found.append(File(relative, status.st_size, str(status.st_mtime_ns)))
        return sorted(found, key=lambda file: file.name)

    def local(self, file: File) -> Path:
        """The file, if it is there and has its size."""
        path = self.path / file.name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise DataError(f"{path} is missing") from None
        if size != file.size:
            raise DataError(f"{path} has {size:,} bytes and should have {file.size:,}: it has changed or is truncated")
        return path


def open_storage(root: str, cache_dir: str | None, cache_gib: float) -> Storage:
    """The place of that path or URL.

    Args:
        root: a path or file://, s3://, gs://, http(s)://, hf://datasets/owner/name[@revision][/folder].
        cache_dir: what is fetched goes into its folder `shards`; None: `fvit.data.storage.cache.cache_dir`.
        cache_gib: the bound of that folder, in GiB.

    Raises:
        DataError: there is no such folder, another kind of URL, or a library that it needs is not installed.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", root)
    if scheme is None:
        return LocalStorage(root)
    if scheme[1] == "file":
        return LocalStorage(unquote(urlsplit(root).path))
    if scheme[1] not in REMOTE:
        known = ", ".join(f"{name}://" for name in ("file", *REMOTE))
        raise DataError(f"{redact(root)}: {scheme[1]}:// is not known; data.root takes a path, {known}")

    from fvit.data.storage.cache import Cache  # fsspec is not imported for a folder
    from fvit.data.storage.cache import cache_dir as default
    from fvit.data.storage.remote import RemoteStorage

    return RemoteStorage(root, Cache(Path(cache_dir or default()) / "shards", cache_gib))


def redact(text: str) -> str:
    """The text with user names, passwords and queries taken out of its URLs: that is where tokens are."""
    text = re.sub(r"(\w+://)[^/\s?#]*[?#][^/\s]*@\S*", r"\1", text)  # a password with ? or # that should be quoted
    text = re.sub(r"(\w+://)[^/\s?#]*@", r"\1", text)
    return re.sub(r"(\w+://[^\s?#]*)[?#]\S*", r"\1", text)
