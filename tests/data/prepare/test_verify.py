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
def test_what_was_written_is_whole(out, workers):
    assert verify(out, workers, silent) == ([], 9)


def _problem(out, workers=0):
    [problem], _ = verify(out, workers, silent)
    return problem


@pytest.mark.parametrize("name", ["train/train-00002.tar", "val/index.npy"])
def test_missing(out, name):
    (out / name).unlink()
    assert _problem(out) == f"{name}: missing"


@pytest.mark.parametrize("name", ["train/train-00002.tar", "val/index.npy"])
@pytest.mark.parametrize(("change", "how"), [(-1, "truncated"), (1, "too long")])
def test_another_size(out, name, change, how):
    size = (out / name).stat().st_size
    os.truncate(out / name, size + change)
    assert _problem(out) == f"{name}: {how}, it has {size + change:,} bytes of {size:,}"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_flipped_byte_of_an_image(out, workers):
    path = out / "train/train-00002.tar"
    flip(path, 700)
    flip(path, 710)
    assert _problem(out, workers).startswith("train/train-00002.tar: changed, its sha256 is ")
    assert _problem(out, workers).endswith("; 1 of its 5 images are damaged")


def test_a_flipped_byte_of_a_header(out):
    flip(out / "val/val-00001.tar", 0)
    assert _problem(out).endswith("; 0 of its 2 images are damaged")


def test_a_flipped_byte_of_the_index(out):
    flip(out / "val/index.npy", 200)
    assert _problem(out).startswith("val/index.npy: changed")


def test_files_that_the_manifest_does_not_name(out):
    (out / "train/train-00007.tar").write_bytes(b"")
    (out / "notes.txt").write_text("")
    assert verify(out, 0, silent)[0] == [
        "notes.txt: extra, the manifest does not name it",
        "train/train-00007.tar: extra, the manifest does not name it",
    ]


def test_everything_at_once_is_told_at_once(out):
    (out / "train/train-00000.tar").unlink()
    flip(out / "train/train-00001.tar", 700)
    os.truncate(out / "val/val-00000.tar", 10)
    (out / "x").write_text("")
    found = [problem.split(",")[0].split(";")[0] for problem in verify(out, 2, silent)[0]]
    assert found == [
        "train/train-00000.tar: missing",
        "train/train-00001.tar: changed",
        "val/val-00000.tar: truncated",
        "x: extra",
    ]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("offset", "train/train-00001.tar: the index does not say what is in it"),
        ("size", "train/train-00001.tar: the index does not say what is in it"),
        ("crc", "train/train-00001.tar: 1 of its images have other checksums in the index"),
        ("label", "train/index.npy: its images a class are not those of the manifest"),
    ],
)
def test_an_index_that_was_wrong_from_the_beginning(out, field, message):
    path = out / "train/index.npy"
    entries = np.load(path)
    entries[field][7] += 1 if field != "label" or entries[field][7] < 2 else -1
    np.save(path, entries)
    content = json.loads((out / "manifest.json").read_text())
    content["splits"]["train"]["index"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (out / "manifest.json").write_text(json.dumps(content))
    assert _problem(out) == message


def test_labels_of_the_index_are_held_against_the_members(out):
    path = out / "train/index.npy"
    entries = np.load(path)
    first, second = 5, next(k for k in range(6, 10) if entries["label"][k] != entries["label"][5])
    entries["label"][[first, second]] = entries["label"][[second, first]]
    np.save(path, entries)
    content = json.loads((out / "manifest.json").read_text())
    content["splits"]["train"]["index"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (out / "manifest.json").write_text(json.dumps(content))
    assert _problem(out) == "train/train-00001.tar: the index does not say what is in it"


def test_without_a_manifest_there_is_nothing_to_hold_it_against(out, tmp_path):
    (out / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        verify(out, 0, silent)
    (out / ".progress").mkdir()
    with pytest.raises(DataError, match="has not ended; start it again"):
        verify(out, 0, silent)
    with pytest.raises(DataError, match="missing is not a folder"):
        verify(tmp_path / "missing", 0, silent)
