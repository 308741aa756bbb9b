"""Remote storage: files are listed through fsspec and fetched into the cache."""

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
from fvit.data.listing import is_skipped
from fvit.data.storage.base import File, Storage, redact
from fvit.data.storage.cache import Cache, Prefetcher
from fvit.data.storage.retry import CREDENTIALS, DeniedError, MissingError, Retry

log = logging.getLogger(__name__)

_VERSIONS = ("ETag", "etag", "blob_id", "LastModified", "Last-Modified")
_CHUNK = 2**20
_MAX_DEPTH = 8  # of folders in an HTML listing, whose links may form a cycle
_NEEDS = {"s3": "fvit[s3]", "gs": "fvit[gcs]", "http": "fvit[http]", "https": "fvit[http]", "hf": "huggingface_hub"}
_SAFE = ":/%@!$&'()*+,;=~[]"  # not quoted again in an HTTP root
SCHEMES = tuple(_NEEDS)

# A fork may copy fsspec's lock while another thread, absent in the child, holds it.
os.register_at_fork(after_in_child=fsspec.asyn.reset_lock)


class RemoteStorage(Storage):
    """A folder behind a URL.

    HTTP has no listing: there, the `manifest.json` of fvit-prepare names the files, or else the links of an HTML page.
    Checksums come from that manifest wherever it exists. After `stall` seconds without data, a transfer is aborted; for
    `tries` and `pause` see `Retry`.
    """

    def __init__(self, root: str, cache: Cache, *, stall: float = 60.0, tries: int = 5, pause: float = 1.0) -> None:
        self.root = redact(root).rstrip("/")
        self.cache = cache
        self.capacity = cache.capacity
        self.scheme = root.partition("://")[0]
        self._stall = stall
        self._retry = Retry(self.scheme, tries, pause)
        self._http = self.scheme in ("http", "https")
        self._options = self._settings(root)
        self._prefetcher: Prefetcher | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_prefetcher": None}

    def files(self, suffixes: Sequence[str]) -> list[File]:
        if self._http:
            described = self._manifest()
            found = list(described.values()) if described is not None else self._linked(suffixes)
        else:
            found = self._listed()
            if any(file.name == manifest.NAME for file in found):
                known = self._manifest() or {}
                found = [
                    replace(file, sha256=known[file.name].sha256) if file.name in known else file for file in found
                ]
        return sorted((file for file in found if _wanted(file.name, suffixes)), key=lambda file: file.name)

    def local(self, file: File) -> Path:
        return self._get(file, used=True)

    def prefetch(self, files: Sequence[File]) -> None:
        if self._prefetcher is None or self._prefetcher.pid != os.getpid():
            self._prefetcher = Prefetcher(self.cache, lambda file: self._get(file, used=False))
        self._prefetcher.replace(files)

    def _get(self, file: File, used: bool) -> Path:
        identity = "\n".join((self.root, file.name, file.version, str(file.size), file.sha256 or ""))
        key = hashlib.sha256(identity.encode()).hexdigest()[:32]
        name = PurePosixPath(file.name).name
        return self.cache.get(key, name, file.size, lambda partial: self._fetch(file, partial), used=used)

    def _fetch(self, file: File, partial: Path) -> None:
        def request() -> None:
            self._download(self._filesystem(), self._address(file.name), partial)
            if (size := partial.stat().st_size) != file.size:
                raise OSError(f"received {size:,} bytes instead of {file.size:,}: truncated or changed on the server")
            if file.sha256 is not None:
                with partial.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                if digest != file.sha256:
                    raise OSError(f"wrong content: its sha256 is {digest} instead of {file.sha256}")

        start = time.monotonic()
        self._retry(self.url(file.name), request)
        log.debug("fetched %s: %d bytes in %.1f s", self.url(file.name), file.size, time.monotonic() - start)

    def _download(self, filesystem: Any, address: str, partial: Path) -> None:
        if not filesystem.async_impl:  # the Hub's, whose reads time out by HF_HUB_DOWNLOAD_TIMEOUT
            with filesystem.open(address, "rb", block_size=0) as source, partial.open("wb") as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
            return
        last = time.monotonic()

        def received(*_: object, **__: object) -> None:
            nonlocal last
            last = time.monotonic()

        progress = Callback(hooks={"received": received})
        serial = {"concurrency": 1} if self.scheme == "gs" else {}  # for the same reason as S3's max_concurrency
        coroutine = filesystem._get_file(address, str(partial), callback=progress, **serial)
        transfer = asyncio.run_coroutine_threadsafe(coroutine, filesystem.loop)
        try:
            while not concurrent.futures.wait([transfer], last + self._stall - time.monotonic()).done:
                if time.monotonic() - last >= self._stall:
                    raise TimeoutError(f"stalled: no data for {self._stall:g} s")
            transfer.result()
        finally:
            transfer.cancel()

    def _listed(self) -> list[File]:
        filesystem = self._filesystem()
        base = filesystem._strip_protocol(self._address("")).rstrip("/") + "/"
        filesystem.invalidate_cache()
        listing = self._retry(self.root, lambda: filesystem.find(base.rstrip("/"), detail=True))
        if not listing:
            raise MissingError(f"{self.root} does not exist or is empty")
        found = []
        for path, info in listing.items():
            if info["type"] == "file" and path.startswith(base):
                digest = (info.get("lfs") or {}).get("sha256")
                found.append(File(path.removeprefix(base), info["size"], _version(info), digest))
        return found

    def _linked(self, suffixes: Sequence[str]) -> list[File]:
        """The files that an HTML page and the pages of its subfolders link to."""
        names = sorted(name for name in set(self._links("", _MAX_DEPTH)) if _wanted(name, suffixes))
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
        def request() -> dict[str, Any]:
            try:
                return self._filesystem().info(self._address(name))
            except FileNotFoundError as error:  # fsspec raises it for every failure; the cause says which
                raise (error.__cause__ or error) from None

        info = self._retry(self.url(name), request)
        if info["size"] is None:
            raise DataError(f"{self.url(name)}: the server does not report its size, which needs a {manifest.NAME}")
        return File(name, info["size"], _version(info))

    def _manifest(self) -> dict[str, File] | None:
        """The files in the manifest of fvit-prepare, including itself; None if there is no such manifest."""
        url = self.url(manifest.NAME)
        try:
            text = self._retry(url, lambda: self._filesystem().cat_file(self._address(manifest.NAME)))
        except (MissingError, DeniedError):  # buckets served over HTTP answer 403 for a missing file
            return None
        with suppress(ValueError, RecursionError):  # not JSON: perhaps ours and truncated, which `parse` reports
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
        """Arguments of fsspec's file system, above all a timeout for each read."""
        parts = urlsplit(root)
        if not self._http:
            if root.rstrip("/") != self.root or not parts.netloc:
                raise DataError(
                    f"{self.root} must not contain credentials or a query: "
                    f"credentials are looked up in {CREDENTIALS[self.scheme]}"
                )
            if self.scheme == "hf" and not re.match(r"hf://datasets/[^/]+/[^/]+", root):
                raise DataError(f"{self.root} must have the form hf://datasets/owner/name[@revision][/folder]")
        if self.scheme == "s3":
            once = {"total_max_attempts": 1}  # otherwise botocore makes five attempts of each of ours
            config = {"connect_timeout": self._stall, "read_timeout": self._stall, "retries": once}
            return {"config_kwargs": config, "max_concurrency": 1}  # parallel parts would report no progress
        if self.scheme == "hf":
            return {}
        try:
            import aiohttp
        except ImportError:
            raise self._not_installed() from None
        timeout = aiohttp.ClientTimeout(total=None, connect=self._stall, sock_read=self._stall)
        if self.scheme == "gs":
            return {"requests_timeout": timeout}
        # Passed separately, so no library can log the secrets together with the URL.
        headers = {"Accept-Encoding": "identity"}
        if parts.username:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        return {
            "client_kwargs": {"timeout": timeout, "trust_env": not parts.username},  # proxies, ~/.netrc
            "headers": headers,
            "params": parse_qsl(parts.query, keep_blank_values=True),
        }

    def _filesystem(self) -> Any:
        """fsspec caches one per process, so a forked process opens its own connections."""
        try:
            filesystem = fsspec.filesystem(self.scheme, **self._options)
        except ImportError:
            raise self._not_installed() from None
        if self.scheme == "s3":
            filesystem.retries = 1  # as in `_settings`
        return filesystem

    def _not_installed(self) -> DataError:
        return DataError(f"{self.root} needs a library: pip install '{_NEEDS[self.scheme]}'")


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")


def _wanted(name: str, suffixes: Sequence[str]) -> bool:
    return name.endswith(tuple(suffixes)) and not _hidden(name)


def _hidden(name: str) -> bool:
    return any(map(is_skipped, name.split("/")))
