"""What a root is taken for, and what of it may be shown."""

import re
import sys
from pathlib import Path

import fsspec
import pytest

from fvit.data.images import DataError
from fvit.data.storage.base import File, LocalStorage, open_storage, redact
from fvit.data.storage.remote import RemoteStorage


def test_a_folder_lists_its_files_and_leaves_hidden_ones_out(tmp_path: Path) -> None:
    for name in ("b.tar", "a/c.tar", "a/.d.tar", ".e/f.tar", "g.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"content")
    here = open_storage(str(tmp_path), None, 1)
    assert isinstance(here, LocalStorage)
    assert [(file.name, file.size) for file in here.files([".tar"])] == [("a/c.tar", 7), ("b.tar", 7)]


def test_a_changed_or_missing_file_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"content")
    here = LocalStorage(tmp_path)
    (file,) = here.files([".tar"])
    assert here.local(file).read_bytes() == b"content"
    (tmp_path / "a.tar").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"a\.tar has 3 bytes and should have 7"):
        here.local(file)
    with pytest.raises(DataError, match=r"b\.tar is missing"):
        here.local(File("b.tar", 1))


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    here = open_storage(folder.as_uri(), None, 1)
    assert isinstance(here, LocalStorage)
    assert here.path == folder


@pytest.mark.parametrize(
    "root", ["s3://bucket/a", "http://host/a", "https://host:81/a", "hf://datasets/owner/name@main/data"]
)
def test_a_url_is_a_remote_place(root: str, tmp_path: Path) -> None:
    there = open_storage(root, str(tmp_path), 1)
    assert isinstance(there, RemoteStorage)
    assert there.root == root
    assert there.cache.folder == tmp_path / "shards"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("ftp://user:hush@host/a?token=hush", r"^ftp://host/a: ftp:// is not known; data.root takes a path, file://"),
        ("hf://models/owner/name", r"should read hf://datasets/owner/name"),
        ("hf://datasets/owner", r"should read hf://datasets/owner/name"),
        ("s3://key:hush@bucket/a", r"^s3://bucket/a was given with credentials or a query: leave them out"),
        ("s3://bucket/a?token=hush", r"AWS_PROFILE"),
        ("nowhere/at/all", "is not a folder"),
    ],
)
def test_what_cannot_be_a_root_is_refused_without_its_credentials(root: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_storage(root, str(tmp_path), 1)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "module", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("http", "aiohttp", "http")]
)
def test_a_library_that_is_not_installed_is_named_by_its_extra(
    scheme: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_no_secret_is_left_in_a_text(secret: str) -> None:
    assert "hush" not in redact(f"400, message='no', url='{secret}'")
    assert "hush" not in redact(secret)


def test_what_is_no_secret_stays() -> None:
    text = "s3://bucket/a@b and hf://datasets/owner/name@main/data: who? me@host #1"
    assert redact(text) == text
