import io
import json
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from fvit.data.formats import decode
from fvit.data.formats.shards import open_shards
from fvit.data.images import DataError
from fvit.data.prepare import write as writing
from fvit.data.prepare.write import _mixed
from fvit.data.sources import Source
from fvit.data.storage.base import LocalStorage
from tests.data.prepare.folders import CLASSES, Encoded, contents, pixels, prepared, source
from tests.data.tars import noise, write_set


def opened(out):
    return open_shards(LocalStorage(out), out / "no cache is needed")


def numbers(images):
    """The numbers that the images had in their source, which their members' names begin with."""
    return [int(images.locate(index).rpartition(": ")[2].partition("_")[0]) for index in range(len(images))]


def test_all_images_are_there_once_with_their_labels(tmp_path):
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


def test_images_shrink(tmp_path):
    prepared(tmp_path / "out", resize=20)
    _, val, _ = opened(tmp_path / "out")
    assert Image.open(io.BytesIO(val.read(0))).size == (26, 20)


def test_pixels_become_png(tmp_path):
    images = pixels()
    prepared(tmp_path / "out", images)
    _, val, _ = opened(tmp_path / "out")
    assert val.locate(2).endswith(": 00000002_image_2.png")
    assert [np.asarray(Image.open(io.BytesIO(val.read(k)))).tolist() for k in range(3)] == images.val.pixels.tolist()


def test_other_tools_read_the_shards(tmp_path):
    """Alone, without index and manifest, they are WebDataset shards."""
    prepared(tmp_path / "out")
    train, _, _ = opened(tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    foreign, _, classes = open_shards(LocalStorage(tmp_path / "out"), tmp_path / "cache")
    assert [foreign.read(k) for k in range(23)] == [train.read(k) for k in range(23)]
    assert foreign.labels.tolist() == train.labels.tolist()
    assert classes == ["0", "1", "2"]


def test_members_have_neither_time_nor_owner(tmp_path):
    prepared(tmp_path / "out")
    with tarfile.open(tmp_path / "out/train/train-00000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_same_bytes_with_any_number_of_workers(tmp_path, workers):
    prepared(tmp_path / "one", source(bad=(3, 8)))
    prepared(tmp_path / "two", source(bad=(3, 8)), workers=workers)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert sorted(one) == [
        "manifest.json",
        *("train/index.npy", *(f"train/train-0000{k}.tar" for k in range(5))),
        *("val/index.npy", "val/val-00000.tar", "val/val-00001.tar"),
    ]
    assert one == two


def test_the_manifest_tells_what_there_is(tmp_path):
    outcome = prepared(tmp_path / "out", source(bad=(3,)))
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
    assert outcome.content.model_dump() == content
    read = (
        sum(len(noise(k)) for k in range(23) if k != 3)
        + len(noise(3)) // 2
        + sum(len(noise(1000 + k)) for k in range(7))
    )
    assert outcome.bytes_in == read


def test_the_index_knows_checksums(tmp_path):
    prepared(tmp_path / "out")
    train, _, _ = opened(tmp_path / "out")
    entries = np.load(tmp_path / "out/train/index.npy")
    assert entries["crc"].tolist() == [zlib.crc32(train.read(k)) for k in range(23)]


def test_a_bad_image_is_fatal_by_choice_and_the_rest_can_go_on(tmp_path):
    images = source(bad=(3,))
    with pytest.raises(DataError, match=r"/somewhere/ant/img_3\.v1\.JPEG: .*bad=skip"):
        prepared(tmp_path / "out", images, bad="fatal")
    prepared(tmp_path / "out", images, bad="skip")
    prepared(tmp_path / "direct", images)
    assert contents(tmp_path / "out") == contents(tmp_path / "direct")


def test_a_shard_of_bad_images_alone_is_left_out(tmp_path):
    prepared(tmp_path / "out", source(bad=(3,)), shard_size=1)
    assert len(list((tmp_path / "out/train").glob("*.tar"))) == 22
    train, _, _ = opened(tmp_path / "out")
    assert sorted(numbers(train)) == [k for k in range(23) if k != 3]


def test_a_split_of_bad_images_alone_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no image of train is whole, of 4; the first: /somewhere"):
        prepared(tmp_path / "out", source(train=4, bad=(0, 1, 2, 3)))


class Unreadable(Encoded):
    def read(self, index):
        if index == 4:
            raise PermissionError(13, "Permission denied")
        return super().read(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_not_skipped(tmp_path, workers):
    images = Source(Unreadable(9), Encoded(3), CLASSES)
    with pytest.raises(DataError, match=r"cannot read /somewhere/bee/img_4.*Permission denied.*goes on"):
        prepared(tmp_path / "out", images, workers=workers)


def test_what_cannot_be_written_is_told(tmp_path, monkeypatch):
    class FullTar(tarfile.TarFile):
        def addfile(self, *_):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", FullTar.addfile)
    with pytest.raises(DataError, match=r"cannot write .*train-00000\.tar: No space left on device"):
        prepared(tmp_path / "out")
    assert not [name for name in contents(tmp_path / "out") if "tar" in name]


def test_a_label_beyond_the_classes_is_refused(tmp_path):
    images = source()
    images.val.labels[2] = 3
    with pytest.raises(DataError, match=r"img_1002\.v1\.JPEG has label 3; there are 3 classes"):
        prepared(tmp_path / "out", images)


def test_images_of_shards_are_mixed_a_few_shards_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_SHARDS_MIXED", 2)
    root = write_set(tmp_path / "set", train=[(0, 1, 2)] * 7, val=((0, 1, 2),))
    train, val, classes = open_shards(LocalStorage(root), tmp_path / "cache")
    order = _mixed(train)
    assert sorted(order) == list(range(21))
    shards = [index // 3 for index in order.tolist()]
    assert all(len(set(shards[start : start + 6])) == 2 for start in range(0, 18, 6))
    assert shards != sorted(shards)
    asked = []
    monkeypatch.setattr(
        train._place, "prefetch", lambda files: asked.append([file.name for file in files]), raising=False
    )
    prepared(tmp_path / "out", Source(train, val, classes), shard_size=7, resize=None)
    names = [
        list(dict.fromkeys(f"set-train-{shard:04d}.tar" for shard in shards[start : start + 7])) for start in (0, 7, 14)
    ]
    assert asked[:3] == names
    written, _, _ = opened(tmp_path / "out")
    assert [written.read(k) for k in range(21)] == [train.read(index) for index in order.tolist()]


def test_the_decoder_stands_in_the_manifest(tmp_path):
    assert prepared(tmp_path / "out").content.settings["decoder"] == decode.choose().name
