"""Storage of a data set's files: a local folder, or a URL whose files are fetched into a cache."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fvit.data.images import DataError
from fvit.data.storage.base import LocalStorage, Storage, redact
from fvit.data.storage.cache import Cache, cache_dir
from fvit.data.storage.remote import SCHEMES, RemoteStorage


def open_storage(root: str, cache: str | Path | None, cache_gib: float) -> Storage:
    """The storage at a path or URL: file://, s3://, gs://, http(s)://, hf://datasets/owner/name[@revision][/folder].

    Fetched files go into the subfolder ``shards`` of `cache` (None means `cache_dir`), up to `cache_gib` GiB.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", root)
    if scheme is None:
        return LocalStorage(root)
    if scheme[1] == "file":
        return LocalStorage(unquote(urlsplit(root).path))
    if scheme[1] not in SCHEMES:
        known = ", ".join(f"{name}://" for name in ("file", *SCHEMES))
        raise DataError(f"{redact(root)}: {scheme[1]}:// is not supported; data.root takes a path, {known}")
    return RemoteStorage(root, Cache(Path(cache or cache_dir()) / "shards", cache_gib))
