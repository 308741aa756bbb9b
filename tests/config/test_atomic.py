import errno

import pytest

from fvit.config import atomic
from fvit.config.atomic import replacing, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as file:
        file.write("ä new\n")
        file.flush()
        assert path.read_text() == "old"
        assert len(names(tmp_path)) == 2
    assert path.read_text(encoding="utf-8") == "ä new\n"
    assert names(tmp_path) == ["file"]


def test_file_names_that_are_no_text_are_escaped(tmp_path):
    write_text(tmp_path / "file", b"K\xe4fer".decode(errors="surrogateescape"))
    assert (tmp_path / "file").read_text() == r"K\udce4fer"


def write_half(path, error, **options):
    with replacing(path, **options) as file:
        file.write("half")
        raise error


def disk_full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_old_file_survives_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            write_half(path, error, keep=tmp_path / "kept")
        assert raised.value is error
        assert names(tmp_path) == ["file"]
        assert path.read_text() == "old"


def test_file_is_named_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(atomic.os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left") as error:
        write_text(path, "new")
    assert error.value.filename == str(path)
    assert names(tmp_path) == ["file"]
    assert path.read_text() == "old"


def test_replaced_file_is_kept_on_request(tmp_path):
    for text in ("first", "second"):
        with replacing(tmp_path / "new", keep=tmp_path / "old") as file:
            file.write(text)
    assert [(tmp_path / name).read_text() for name in ("new", "old")] == ["second", "first"]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_text(tmp_path / "no" / "file", "text")
    assert error.value.filename == str(tmp_path / "no" / "file")
