import hashlib
import json
import os

import numpy as np
import pytest

from fvit.data.images import DataError
from fvit.data.prepare.verify import verify
from tests.data.prepare.folders import prepared, silent
from tests.data.tars import flip


@pytest.fixture
def out(tmp_path):
    prepared(tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("workers", [0, 2])
def test_written_shards_are_intact(out, workers):
    assert verify(out, workers, silent) == ([], 9)


def _problem(out, workers=0):
    [problem], _ = verify(out, workers, silent)
    return problem


@pytest.mark.parametrize("name", ["train/train-00002.tar", "val/index.npy"])
def test_missing_file(out, name):
    (out / name).unlink()
    assert _problem(out) == f"{name}: missing"


@pytest.mark.parametrize("name", ["train/train-00002.tar", "val/index.npy"])
@pytest.mark.parametrize(("change", "how"), [(-1, "truncated"), (1, "too long")])
def test_wrong_size(out, name, change, how):
    size = (out / name).stat().st_size
    os.truncate(out / name, size + change)
    assert _problem(out) == f"{name}: {how}, {size + change:,} bytes instead of {size:,}"


@pytest.mark.parametrize("workers", [0, 2])
def test_flipped_byte_of_an_image(out, workers):
    path = out / "train/train-00002.tar"
    flip(path, 700)
    flip(path, 710)
    assert _problem(out, workers).startswith("train/train-00002.tar: changed, its sha256 is ")
    assert _problem(out, workers).endswith("; 1 of its 5 images are damaged")


def test_flipped_byte_of_a_header(out):
    flip(out / "val/val-00001.tar", 0)
    assert _problem(out).endswith("; 0 of its 2 images are damaged")


def test_flipped_byte_of_the_index(out):
    flip(out / "val/index.npy", 200)
    assert _problem(out).startswith("val/index.npy: changed")


def test_unexpected_files(out):
    (out / "train/train-00007.tar").write_bytes(b"")
    (out / "notes.txt").write_text("")
    assert verify(out, 0, silent)[0] == [
        "notes.txt: not in the manifest",
        "train/train-00007.tar: not in the manifest",
    ]


def test_all_problems_are_reported_together(out):
    (out / "train/train-00000.tar").unlink()
    flip(out / "train/train-00001.tar", 700)
    os.truncate(out / "val/val-00000.tar", 10)
    (out / "x").write_text("")
    found = [problem.split(",")[0].split(";")[0] for problem in verify(out, 2, silent)[0]]
    assert found == [
        "train/train-00000.tar: missing",
        "train/train-00001.tar: changed",
        "val/val-00000.tar: truncated",
        "x: not in the manifest",
    ]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("offset", "train/train-00001.tar: its content does not match the index"),
        ("size", "train/train-00001.tar: its content does not match the index"),
        ("crc", "train/train-00001.tar: the checksums of 1 of its images do not match the index"),
        ("label", "train/train-00001.tar: its content does not match the index"),
    ],
)
def test_wrong_index_with_the_right_checksum(out, field, message):
    path = out / "train/index.npy"
    entries = np.load(path)
    entries[field][7] += 1
    np.save(path, entries)
    content = json.loads((out / "manifest.json").read_text())
    content["splits"]["train"]["index"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (out / "manifest.json").write_text(json.dumps(content))
    assert _problem(out) == message


def test_missing_manifest(out, tmp_path):
    (out / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        verify(out, 0, silent)
    (out / ".progress").mkdir()
    with pytest.raises(DataError, match="is incomplete: run the fvit-prepare command"):
        verify(out, 0, silent)
    with pytest.raises(DataError, match="missing is not a folder"):
        verify(tmp_path / "missing", 0, silent)
