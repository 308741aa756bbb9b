import re
import sys
from contextlib import suppress

import fsspec
import pytest

from fvit.data.images import DataError
from fvit.data.storage import open_storage
from fvit.data.storage.base import File, LocalStorage, redact, replacing
from fvit.data.storage.remote import RemoteStorage


def test_local_listing_skips_hidden_files(tmp_path):
    for name in ("b.tar", "a/c.tar", "a/.d.tar", ".e/f.tar", "g.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"content")
    storage = open_storage(str(tmp_path), None, 1)
    assert isinstance(storage, LocalStorage)
    assert [(file.name, file.size) for file in storage.files([".tar"])] == [("a/c.tar", 7), ("b.tar", 7)]


def test_changed_or_missing_file_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"content")
    storage = LocalStorage(tmp_path)
    (file,) = storage.files([".tar"])
    assert storage.local(file).read_bytes() == b"content"
    (tmp_path / "a.tar").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"a\.tar has 3 bytes instead of 7"):
        storage.local(file)
    with pytest.raises(DataError, match=r"b\.tar is missing"):
        storage.local(File("b.tar", 1))


def test_file_url_is_local(tmp_path):
    folder = tmp_path / "with space"
    folder.mkdir()
    storage = open_storage(folder.as_uri(), None, 1)
    assert isinstance(storage, LocalStorage)
    assert storage.path == folder


@pytest.mark.parametrize(
    "root", ["s3://bucket/a", "http://host/a", "https://host:81/a", "hf://datasets/owner/name@main/data"]
)
def test_other_urls_are_remote(root, tmp_path):
    storage = open_storage(root, str(tmp_path), 1)
    assert isinstance(storage, RemoteStorage)
    assert storage.root == root
    assert storage.cache.folder == tmp_path / "shards"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (
            "ftp://user:hush@host/a?token=hush",
            r"^ftp://host/a: ftp:// is not supported; data.root takes a path, file://",
        ),
        ("hf://models/owner/name", r"must have the form hf://datasets/owner/name"),
        ("hf://datasets/owner", r"must have the form hf://datasets/owner/name"),
        ("s3://key:hush@bucket/a", r"^s3://bucket/a must not contain credentials or a query"),
        ("s3://bucket/a?token=hush", r"AWS_PROFILE"),
        ("nowhere/at/all", "is not a folder"),
    ],
)
def test_invalid_root_is_rejected_without_showing_credentials(root, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        open_storage(root, str(tmp_path), 1)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "module", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("http", "aiohttp", "http")]
)
def test_missing_library_is_named_by_its_extra(scheme: str, module, extra, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules[fsspec.get_filesystem_class.__module__]._registry, scheme, raising=False)
    with pytest.raises(DataError, match=re.escape(f"pip install 'fvit[{extra}]'")):
        open_storage(f"{scheme}://host/a", str(tmp_path), 1).files([""])


@pytest.mark.parametrize(
    "secret",
    [
        "http://user:hush@host/a",
        "http://user:hu@hush@host/a",
        "http://user:hu'hush@host/a",
        "http://user:hu?hush@host/a",
        "http://user:hu#hush@host/a",
        "https://host/a?X-Amz-Signature=hush&b=hush",
        "https://host/a?sig='hush'hush",
        "https://host/a#token=hush",
    ],
)
def test_secrets_are_redacted(secret):
    assert "hush" not in redact(f"400, message='no', url='{secret}'")
    assert "hush" not in redact(secret)


def test_text_without_secrets_is_unchanged():
    text = "s3://bucket/a@b and hf://datasets/owner/name@main/data: who? me@host #1"
    assert redact(text) == text


def test_file_is_replaced_atomically(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with suppress(KeyboardInterrupt), replacing(path) as file:
        file.write(b"partial")
        assert path.read_bytes() == b"before"
        raise KeyboardInterrupt
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("file", b"before")]
    with replacing(path) as file:
        file.write(b"after")
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("file", b"after")]
