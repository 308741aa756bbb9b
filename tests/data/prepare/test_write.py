import io
import json
import os
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from fvit.data.formats import decode
from fvit.data.formats.tar import open_tars
from fvit.data.images import DataError
from fvit.data.prepare import write as writing
from fvit.data.prepare.write import _shuffled
from fvit.data.sources import Source
from fvit.data.storage.base import LocalStorage
from tests.data.prepare.folders import CLASSES, Encoded, contents, pixels, prepared, source
from tests.data.tars import flip, noise, write_set


def opened(out):
    return open_tars(LocalStorage(out), out / "unused")


def numbers(images):
    """The original indices, which the member names start with."""
    return [int(images.locate(index).rpartition(": ")[2].partition("_")[0]) for index in range(len(images))]


def test_all_images_are_written_once_with_their_labels(tmp_path):
    prepared(tmp_path / "out", resize=None)
    train, val, classes = opened(tmp_path / "out")
    assert classes == CLASSES
    order = numbers(train)
    assert sorted(order) == list(range(23))
    assert order != sorted(order)
    assert numbers(val) == list(range(7))
    assert [train.read(k) for k in range(23)] == [noise(number) for number in order]
    assert [val.read(k) for k in range(7)] == [noise(1000 + k) for k in range(7)]
    assert train.labels.tolist() == [number % 3 for number in order]
    assert train.shard_sizes.tolist() == [5, 5, 5, 5, 3]
    assert train.locate(0).endswith(f"train/train-00000.tar: {order[0]:08d}_img_{order[0]}.jpg")
    assert train.entries["crc"].tolist() == [zlib.crc32(train.read(k)) for k in range(23)]
    with tarfile.open(tmp_path / "out/train/train-00000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


def test_pixels_become_png(tmp_path):
    images = pixels()
    prepared(tmp_path / "out", images)
    _, val, _ = opened(tmp_path / "out")
    assert val.locate(2).endswith(": 00000002_image_2.png")
    assert [np.asarray(Image.open(io.BytesIO(val.read(k)))).tolist() for k in range(3)] == images.val.pixels.tolist()


def test_shards_are_a_webdataset(tmp_path):
    """They can be read without index and manifest."""
    prepared(tmp_path / "out")
    train, _, _ = opened(tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    assert Image.open(io.BytesIO(train.read(0))).size == (26, 20), "resized"
    foreign, _, classes = open_tars(LocalStorage(tmp_path / "out"), tmp_path / "cache")
    assert [foreign.read(k) for k in range(23)] == [train.read(k) for k in range(23)]
    assert foreign.labels.tolist() == train.labels.tolist()
    assert classes == ["0", "1", "2"]


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bytes_with_any_number_of_workers(tmp_path, workers):
    prepared(tmp_path / "one", source(bad=(3, 8)))
    prepared(tmp_path / "two", source(bad=(3, 8)), workers=workers)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert sorted(one) == [
        "manifest.json",
        *("train/index.npy", *(f"train/train-0000{k}.tar" for k in range(5))),
        *("val/index.npy", "val/val-00000.tar", "val/val-00001.tar"),
    ]
    assert one == two


def test_manifest(tmp_path):
    manifest, bytes_in = prepared(tmp_path / "out", source(bad=(3,)))
    content = json.loads((tmp_path / "out/manifest.json").read_text())
    train = content["splits"]["train"]
    assert content["classes"] == CLASSES
    assert train["per_class"] == [7, 8, 7]
    assert train["images"] == 22
    assert [shard["images"] for shard in train["shards"]].count(4) == 1
    [skipped] = train["skipped"]
    assert skipped["name"] == "/somewhere/ant/img_3.v1.JPEG"
    assert skipped["reason"]
    recorded = content["settings"]
    assert (recorded["resize"], recorded["quality"], recorded["shard_size"]) == (20, 80, 5)
    assert recorded["source"] == {"name": "memory", "root": "x"}
    assert recorded["decoder"] == decode.choose().name
    assert manifest.model_dump() == content
    read = (
        sum(len(noise(k)) for k in range(23) if k != 3)
        + len(noise(3)) // 2
        + sum(len(noise(1000 + k)) for k in range(7))
    )
    assert bytes_in == read


def test_damaged_image_can_be_fatal_and_the_rest_resumed(tmp_path):
    images = source(bad=(3,))
    with pytest.raises(DataError, match=r"/somewhere/ant/img_3\.v1\.JPEG: .*bad=skip"):
        prepared(tmp_path / "out", images, skip_bad=False)
    prepared(tmp_path / "out", images)
    prepared(tmp_path / "direct", images)
    assert contents(tmp_path / "out") == contents(tmp_path / "direct")


def test_shard_without_good_images_is_left_out(tmp_path):
    prepared(tmp_path / "out", source(bad=(3,)), shard_size=1)
    assert len(list((tmp_path / "out/train").glob("*.tar"))) == 22
    train, _, _ = opened(tmp_path / "out")
    assert sorted(numbers(train)) == [k for k in range(23) if k != 3]


def test_split_without_good_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"all 4 images of train are damaged, the first: /somewhere"):
        prepared(tmp_path / "out", source(train=4, bad=(0, 1, 2, 3)))


class Unreadable(Encoded):
    def read(self, index):
        if index == 4:
            raise PermissionError(13, "Permission denied")
        return super().read(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_not_skipped(tmp_path, workers):
    images = Source(Unreadable(9), Encoded(3), CLASSES)
    with pytest.raises(DataError, match=r"cannot read /somewhere/bee/img_4.*Permission denied.*to resume"):
        prepared(tmp_path / "out", images, workers=workers)


def test_write_error_is_reported(tmp_path, monkeypatch):
    class FullTar(tarfile.TarFile):
        def addfile(self, *_):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", FullTar.addfile)
    with pytest.raises(DataError, match=r"cannot write .*train-00000\.tar: No space left on device"):
        prepared(tmp_path / "out")
    assert not [name for name in contents(tmp_path / "out") if "tar" in name]


def test_images_from_shards_are_mixed_among_a_few_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_SHARDS_MIXED", 2)
    root = write_set(tmp_path / "set", train=[(0, 1, 2)] * 7, val=((0, 1, 2),))
    train, val, classes = open_tars(LocalStorage(root), tmp_path / "cache")
    order = _shuffled(train)
    assert sorted(order) == list(range(21))
    shards = [index // 3 for index in order.tolist()]
    assert all(len(set(shards[start : start + 6])) == 2 for start in range(0, 18, 6))
    assert shards != sorted(shards)
    asked = []
    monkeypatch.setattr(
        train.storage, "prefetch", lambda files: asked.append([file.name for file in files]), raising=False
    )
    prepared(tmp_path / "out", Source(train, val, classes), shard_size=7, resize=None)
    names = [
        list(dict.fromkeys(f"set-train-{shard:04d}.tar" for shard in shards[start : start + 7])) for start in (0, 7, 14)
    ]
    assert asked[:3] == names
    written, _, _ = opened(tmp_path / "out")
    assert [written.read(k) for k in range(21)] == [train.read(index) for index in order.tolist()]


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
            r"val-00000\.tar has 99 bytes instead of .*verify=",
        ),
        (lambda out: flip(out / "train/index.npy", 200), r"train/index\.npy does not match the manifest"),
        (lambda out: (out / "val/index.npy").unlink(), r"val/index\.npy is missing"),
        (lambda out: os.truncate(out / "manifest.json", 50), r"manifest\.json is not a valid manifest"),
    ],
)
def test_missing_or_changed_file_is_reported_on_opening(out, damage, message):
    damage(out)
    with pytest.raises(DataError, match=message):
        open_tars(LocalStorage(out), out)
