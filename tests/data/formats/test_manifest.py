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


def test_round_trip():
    content = manifest.parse(json.dumps(_content()).encode(), "manifest.json")
    assert json.loads(content.model_dump_json()) == _content()
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
        (_set(*SHARD, "name", value="../x.tar"), "'../x.tar' is not inside the folder"),
        (_set(*SHARD, "name", value="a/../../x.tar"), "is not inside the folder"),
        (_set(*SHARD, "name", value="/etc/x.tar"), "is not inside the folder"),
        (_set(*SHARD, "name", value="C:\\x.tar"), "is not inside the folder"),
        (_set(*SHARD, "name", value="http://host/x.tar"), "is not inside the folder"),
        (_set(*SHARD, "name", value=""), "is not inside the folder"),
        (_set("splits", "val", "index", "name", value="../../index.npy"), "is not inside the folder"),
        (_set(*SHARD, "size", value=-1), "splits.train.shards.0.size"),
        (_set(*SHARD, "size", value="9"), "splits.train.shards.0.size"),
        (_set(*SHARD, "images", value=5), "shards add up to 6 images instead of 5"),
        (_set(*SHARD, "sha256", value="x"), "splits.train.shards.0.sha256"),
        (_set(*SHARD, "name", value="train/1.tar"), "a shard is listed twice"),
        (_set("splits", "val", "per_class", value=[1, 2]), "per_class add up to 3 images instead of 2"),
        (_set("splits", "val", "per_class", value=[2]), "val counts 1 classes instead of 2"),
        (_set("version", value=2), "version"),
        (_set("format", value="other"), "format"),
        (_set("more", value=1), "more"),
        (lambda content: content["splits"].pop("val"), "splits must have train and val"),
    ],
)
def test_invalid_manifest_is_rejected(change, message):
    content = _content()
    change(content)
    with pytest.raises(DataError) as error:
        manifest.parse(json.dumps(content).encode(), "far/manifest.json")
    assert str(error.value).startswith("far/manifest.json is not a valid manifest: ")
    assert message in str(error.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": "fvit-shards"', b"\x00"])
def test_damaged_manifest_is_rejected(text):
    with pytest.raises(DataError, match=r"manifest\.json is not a valid manifest"):
        manifest.parse(text, "manifest.json")
