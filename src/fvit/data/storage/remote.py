"""A place behind a URL: files are listed through fsspec and fetched whole into the cache of this machine."""

import asyncio
import base64
import concurrent.futures
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import fsspec
import fsspec.asyn
from fsspec.callbacks import Callback

from fvit.data.formats import manifest
from fvit.data.images import DataError
from fvit.data.storage.base import File, Storage, redact
from fvit.data.storage.cache import Cache, Prefetcher
from fvit.data.storage.retry import DeniedError, MissingError, Retry

log = logging.getLogger(__name__)

_VERSIONS = ("ETag", "etag", "blob_id", "LastModified", "Last-Modified")
_CHUNK = 2**20
_DEPTH = 8  # of folders in an HTML listing: links may lead round in circles
_NEEDS = {"s3": "fvit[s3]", "gs": "fvit[gcs]", "http": "fvit[http]", "https": "fvit[http]", "hf": "huggingface_hub"}
_SAFE = ":/%@!$&'()*+,;=~[]"  # in the root of HTTP: what the user has quoted already stays as it is

# fsspec's lock may be held, when a process forks, by a thread that the child does not have.
os.register_at_fork(after_in_child=fsspec.asyn.reset_lock)


class RemoteStorage(Storage):
    """A folder behind a URL.

    Which files there are is what the host lists. An HTTP server lists none, so there the `manifest.json` that
    fvit-prepare writes takes that part, or else the links of an HTML page. Wherever there is such a manifest, the
    checksums are its own.

    Args:
        root: s3://bucket/…, gs://bucket/…, http(s)://…, hf://datasets/owner/name[@revision][/…].
        cache: where the fetched files are kept.
        stall: seconds without a byte after which a transfer is given up.
        tries: of each request, before it is an error.
        pause: seconds between the first two tries; doubled each time.
    """

    def __init__(self, root: str, cache: Cache, *, stall: float = 60.0, tries: int = 5, pause: float = 1.0) -> None:
        self.root = redact(root).rstrip("/")
        self.cache = cache
        self.capacity = cache.bound
        self.scheme = root.partition("://")[0]
        self._stall = stall
        self._retry = Retry(self.scheme, tries, pause)
        self._http = self.scheme in ("http", "https")
        self._options = self._settings(root)
        self._ahead: Prefetcher | None = None

    def __repr__(self) -> str:
        return f"RemoteStorage({self.root!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ahead": None}

    def files(self, suffixes: Sequence[str]) -> list[File]:
        """The files whose names end so, as the host or the manifest lists them."""
        described = self._manifest() if self._http else None
        if described is not None:
            found = [file for file in described.values() if _wanted(file.name, suffixes)]
        elif self._http:
            found = self._linked(suffixes)
        else:
            found = self._listed()
            if any(file.name == manifest.NAME for file in found):
                known = self._manifest() or {}
                found = [
                    replace(file, sha256=known[file.name].sha256) if file.name in known else file for file in found
                ]
            found = [file for file in found if _wanted(file.name, suffixes)]
        return sorted(found, key=lambda file: file.name)

    def local(self, file: File) -> Path:
        """The file in the cache; fetched if it is not there."""
        return self._get(file, used=True)

    def prefetch(self, files: Sequence[File]) -> None:
        """Begin to fetch these files; what fails is left to `local` to try again and to report."""
        if self._ahead is None or self._ahead.pid != os.getpid():
            self._ahead = Prefetcher(self.cache, lambda file: self._get(file, used=False))
        self._ahead.replace(files)

    def _get(self, file: File, used: bool) -> Path:
        identity = "\n".join((self.root, file.name, file.version, str(file.size), file.sha256 or ""))
        key = hashlib.sha256(identity.encode()).hexdigest()[:32]
        name = PurePosixPath(file.name).name
        return self.cache.get(key, name, file.size, lambda partial: self._fetch(file, partial), used=used)

    def _fetch(self, file: File, partial: Path) -> None:
        def attempt() -> None:
            self._download(self._filesystem(), self._address(file.name), partial)
            if (size := partial.stat().st_size) != file.size:
                raise OSError(f"{size:,} bytes came and {file.size:,} should have: it was cut short or has changed")
            if file.sha256 is not None:
                with partial.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                if digest != file.sha256:
                    raise OSError(f"wrong bytes: their sha256 is {digest} and should be {file.sha256}")

        start = time.monotonic()
        self._retry(f"{self.root}/{file.name}", attempt)
        log.debug("fetched %s/%s: %d bytes in %.1f s", self.root, file.name, file.size, time.monotonic() - start)

    def _download(self, filesystem: Any, address: str, partial: Path) -> None:
        if not filesystem.async_impl:  # the Hub's, whose reads have a deadline of their own (HF_HUB_DOWNLOAD_TIMEOUT)
            with filesystem.open(address, "rb", block_size=0) as source, partial.open("wb") as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
            return
        progress = _Progress()
        one = {"concurrency": 1} if self.scheme == "gs" else {}  # as for S3
        coroutine = filesystem._get_file(address, str(partial), callback=progress, **one)
        transfer = asyncio.run_coroutine_threadsafe(coroutine, filesystem.loop)
        try:
            while not concurrent.futures.wait([transfer], progress.last + self._stall - time.monotonic()).done:
                if time.monotonic() - progress.last >= self._stall:
                    raise TimeoutError(f"stalled: no byte for {self._stall:g} s")
            transfer.result()
        finally:
            transfer.cancel()

    def _listed(self) -> list[File]:
        """Every file that the host lists."""
        filesystem = self._filesystem()
        base = filesystem._strip_protocol(self._address("")).rstrip("/") + "/"
        filesystem.invalidate_cache()
        listing = self._retry(self.root, lambda: filesystem.find(base.rstrip("/"), detail=True))
        if not listing:
            raise MissingError(f"there is nothing at {self.root}")
        found = []
        for path, info in listing.items():
            if info["type"] == "file" and path.startswith(base):
                digest = (info.get("lfs") or {}).get("sha256")
                found.append(File(path.removeprefix(base), info["size"], _version(info), digest))
        return found

    def _linked(self, suffixes: Sequence[str]) -> list[File]:
        """The files that an HTML listing links to."""
        names = sorted(name for name in set(self._links("", _DEPTH)) if _wanted(name, suffixes))
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            return list(pool.map(self._head, names))

    def _links(self, folder: str, depth: int) -> Iterator[str]:
        filesystem, address = self._filesystem(), self._address(folder).rstrip("/") + "/"
        for link in self._retry(f"{self.root}/{folder}", lambda: filesystem.ls(address, detail=False)):
            name = unquote(link.removeprefix(address))
            if link.startswith(address) and name.strip("/") and not set("?#") & set(link) and not _hidden(name):
                if not name.endswith("/"):
                    yield folder + name
                elif depth:
                    yield from self._links(folder + name, depth - 1)

    def _head(self, name: str) -> File:
        def attempt() -> dict[str, Any]:
            try:
                return self._filesystem().info(self._address(name))
            except FileNotFoundError as error:  # fsspec's word for every failure; the cause tells which
                raise (error.__cause__ or error) from None

        info = self._retry(f"{self.root}/{name}", attempt)
        if info["size"] is None:
            raise DataError(f"{self.root}/{name}: the server does not tell its size; only a {manifest.NAME} could")
        return File(name, info["size"], _version(info))

    def _manifest(self) -> dict[str, File] | None:
        """What the manifest of fvit-prepare says of each file, itself included; None if there is no such manifest."""
        url = f"{self.root}/{manifest.NAME}"
        try:
            text = self._retry(url, lambda: self._filesystem().cat_file(self._address(manifest.NAME)))
        except (MissingError, DeniedError):  # buckets served by HTTP answer 403 for what does not exist
            return None
        with suppress(ValueError, RecursionError):  # no JSON: ours perhaps, and cut; parse says what is wrong
            content = json.loads(text)
            if not isinstance(content, dict) or content.get("format") != manifest.FORMAT:
                return None
        own = manifest.FileEntry(name=manifest.NAME, size=len(text), sha256=hashlib.sha256(text).hexdigest())
        described = [own, *manifest.parse(text, url).files()]
        return {file.name: File(file.name, file.size, file.sha256, file.sha256) for file in described}

    def _address(self, name: str) -> str:
        if self._http:
            return f"{quote(self.root, safe=_SAFE)}/{quote(name)}"
        return f"{self.root}/{name}"

    def _settings(self, root: str) -> dict[str, Any]:
        """What the file system of this scheme is made with; above all deadlines for each read."""
        parts = urlsplit(root)
        if not self._http:
            if root.rstrip("/") != self.root or not parts.netloc:
                raise DataError(
                    f"{self.root} was given with credentials or a query: leave them out, "
                    f"they are looked for in {self._retry.credentials}"
                )
            if self.scheme == "hf" and not re.match(r"hf://datasets/[^/]+/[^/]+", root):
                raise DataError(f"{self.root} should read hf://datasets/owner/name[@revision][/folder]")
        if self.scheme == "s3":
            once = {"total_max_attempts": 1}  # or each of our tries would be five of botocore's
            config = {"connect_timeout": self._stall, "read_timeout": self._stall, "retries": once}
            return {"config_kwargs": config, "max_concurrency": 1}  # parts in parallel would come without progress
        if self.scheme == "hf":
            return {}
        try:
            import aiohttp
        except ImportError:
            raise self._uninstalled() from None
        deadline = aiohttp.ClientTimeout(total=None, connect=self._stall, sock_read=self._stall)
        if self.scheme == "gs":
            return {"requests_timeout": deadline}
        # Beside the address and not in it, so that no library can log them with it.
        headers = {"Accept-Encoding": "identity"}
        if parts.username:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        return {
            "client_kwargs": {"timeout": deadline, "trust_env": not parts.username},  # proxies, ~/.netrc
            "headers": headers,
            "params": parse_qsl(parts.query, keep_blank_values=True),
        }

    def _filesystem(self) -> Any:
        """fsspec keeps one for each process, so that a forked one gets its own connections."""
        try:
            filesystem = fsspec.filesystem(self.scheme, **self._options)
        except ImportError:
            raise self._uninstalled() from None
        if self.scheme == "s3":
            filesystem.retries = 1  # for the same reason as in its settings
        return filesystem

    def _uninstalled(self) -> DataError:
        return DataError(f"{self.root} needs a library: pip install '{_NEEDS[self.scheme]}'")


class _Progress(Callback):
    """Remembers when a transfer last brought something."""

    def __init__(self) -> None:
        super().__init__()
        self.last = time.monotonic()

    def set_size(self, size: int | None) -> None:
        self.last = time.monotonic()

    def relative_update(self, inc: int = 1) -> None:
        self.last = time.monotonic()


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")


def _wanted(name: str, suffixes: Sequence[str]) -> bool:
    return name.endswith(tuple(suffixes)) and not _hidden(name)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
