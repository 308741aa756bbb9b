import json

import pytest

from fvit.data.formats import manifest
from fvit.data.images import DataError


def _content():
    digest = "0" * 64

    def split(name, per_class, *shards):
        files = [{"name": f"{name}/{k}.tar", "size": 9, "sha256": digest, "images": n} for k, n in enumerate(shards)]
        index = {"name": f"{name}/index.npy", "size": 9, "sha256": digest}
        skipped = [{"name": "x.jpg", "reason": "cut"}]
        return {"images": sum(shards), "per_class": per_class, "shards": files, "index": index, "skipped": skipped}

    return {
        "format": "fvit-shards",
        "version": 1,
        "classes": ["ant", "bee"],
        "settings": {"resize": None, "source": {"name": "folder"}},
        "splits": {"train": split("train", [2, 3], 4, 1), "val": split("val", [0, 2], 2)},
    }


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(_content()))
    content = manifest.read(path)
    manifest.write(tmp_path / "again.json", content)
    assert manifest.read(tmp_path / "again.json") == content
    assert json.loads((tmp_path / "again.json").read_text()) == _content()
    assert [file.name for file in content.files()] == [
        *("train/0.tar", "train/1.tar", "train/index.npy", "val/0.tar", "val/index.npy")
    ]


def _set(*path, value):
    def change(content):
        for part in path[:-1]:
            content = content[part]
        content[path[-1]] = value

    return change


SHARD = ("splits", "train", "shards", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(*SHARD, "name", value="../x.tar"), "'../x.tar' leads outside the folder"),
        (_set(*SHARD, "name", value="a/../../x.tar"), "leads outside"),
        (_set(*SHARD, "name", value="/etc/x.tar"), "leads outside"),
        (_set(*SHARD, "name", value="C:\\x.tar"), "leads outside"),
        (_set(*SHARD, "name", value="http://host/x.tar"), "leads outside"),
        (_set(*SHARD, "name", value=""), "leads outside"),
        (_set("splits", "val", "index", "name", value="../../index.npy"), "leads outside"),
        (_set(*SHARD, "size", value=-1), "splits.train.shards.0.size"),
        (_set(*SHARD, "size", value="9"), "splits.train.shards.0.size"),
        (_set(*SHARD, "images", value=5), "shards add up to 6 images and not to 5"),
        (_set(*SHARD, "sha256", value="x"), "splits.train.shards.0.sha256"),
        (_set(*SHARD, "name", value="train/1.tar"), "a shard is listed twice"),
        (_set("splits", "val", "per_class", value=[1, 2]), "per_class add up to 3 images and not to 2"),
        (_set("splits", "val", "per_class", value=[2]), "val counts 1 classes of 2"),
        (_set("version", value=2), "version"),
        (_set("format", value="other"), "format"),
        (_set("more", value=1), "more"),
        (lambda content: content["splits"].pop("val"), "splits.val"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, change, message):
    content = _content()
    change(content)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        manifest.read(path, "far/manifest.json")
    assert str(error.value).startswith("far/manifest.json is no manifest of prepared shards: ")
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "fvit-shards"', "\x00"])
def test_a_cut_one_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json is no manifest"):
        manifest.read(tmp_path / "manifest.json")
