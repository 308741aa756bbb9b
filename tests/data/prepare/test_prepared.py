"""Prepared shards as a source: what is refused when they are opened."""

import os

import pytest

from fvit.data.formats.shards import open_shards
from fvit.data.images import DataError
from fvit.data.storage.base import LocalStorage
from tests.data.prepare.folders import prepared
from tests.data.tars import flip


@pytest.fixture
def out(tmp_path):
    prepared(tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "train/train-00001.tar").unlink(), r"train-00001\.tar is missing; .*verify="),
        (
            lambda out: os.truncate(out / "val/val-00000.tar", 99),
            r"val-00000\.tar has 99 bytes and should have .*verify=",
        ),
        (lambda out: flip(out / "train/index.npy", 200), r"train/index\.npy is not the index that the manifest names"),
        (lambda out: (out / "val/index.npy").unlink(), r"val/index\.npy is missing"),
        (lambda out: os.truncate(out / "manifest.json", 50), r"manifest\.json is no manifest"),
    ],
)
def test_what_is_missing_or_changed_is_told_before_anything_is_read(out, damage, message):
    damage(out)
    with pytest.raises(DataError, match=message):
        open_shards(LocalStorage(out), out)


def test_a_label_beyond_the_classes_names_the_member(out):
    manifest = out / "manifest.json"
    text = manifest.read_text()
    assert text.count('"cow"') == 1
    # Two classes and their counts, where the index has labels of three.
    manifest.write_text(text.replace(',\n  "cow"', ""))
    with pytest.raises(DataError, match="counts 3 classes of 2"):
        open_shards(LocalStorage(out), out)
