import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fvit.data.formats.files import FileImages
from fvit.data.formats.parquet import ParquetImages
from fvit.data.formats.tar import TarImages
from fvit.data.images import DataError
from fvit.data.sources import load
from tests.data.sources.conftest import GREY, found, write

CLASSES = ["ant", "bee", "cow"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(level):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (level,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            for suffix, data in (("png", encoded(GREY[CLASSES[label]])), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number:05}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_parquet(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encoded(GREY[CLASSES[label]]), "path": "x.JPEG"} for label in labels]
    features = {"label": {"names": CLASSES}}
    table = pa.table({"image": images, "label": labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)


def check(source, kind, classes=CLASSES):
    """All three forms hold the same: an image a class to train with, and two in another order to validate."""
    assert isinstance(source.train, kind)
    assert isinstance(source.val, kind)
    assert source.classes == classes
    assert found(source.train, CLASSES) == [(name, GREY[name]) for name in CLASSES]
    assert sorted(found(source.val, CLASSES)) == [("ant", GREY["ant"]), ("cow", GREY["cow"])]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"),
        ("Data/CLS-LOC/train", "Data/CLS-LOC/val"),
        ("ILSVRC/Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/val"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_a_tree(tree, tmp_path, train, val, flat):
    made, root = tree(val=("ant", "cow")), tmp_path / "imagenet"
    for name, split in ((train, "train"), (val, "val")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (made / split).rename(root / name)
    if flat:
        for number, name in enumerate(("cow", "ant")):
            file = next((root / val / name).iterdir())
            file.rename(root / val / f"ILSVRC2012_val_0000000{number}{file.suffix}")
            (root / val / name).rmdir()
        (root / "LOC_val_solution.csv").write_text(
            "ImageId,PredictionString\nILSVRC2012_val_00000001,ant 1 2 3 4\nILSVRC2012_val_00000000,cow 1 2 3 4\n"
        )
    check(load("imagenet", root=str(root)), FileImages)


def test_the_ground_truth_may_lie_in_the_devkit(tree):
    root = tree(val=())
    write(root / "val" / "ILSVRC2012_val_00000001.JPEG", GREY["bee"])
    devkit = root / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    (devkit / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 1")
    source = load("imagenet", root=str(root))
    assert found(source.val, CLASSES) == [("bee", GREY["bee"])]


def test_a_flat_folder_without_a_list(tree):
    root = tree(val=())
    write(root / "val" / "ILSVRC2012_val_00000001.JPEG", 1)
    with pytest.raises(DataError, match=rf"need a list of their labels: val\.txt, .* found in none of .*{root}/ILSVRC"):
        load("imagenet", root=str(root))


def test_a_folder_that_is_both_flat_and_a_tree(tree):
    root = tree()
    write(root / "val" / "ILSVRC2012_val_00000001.JPEG", 1)
    with pytest.raises(DataError, match=rf"{root}/val holds both folders and images \(ILSVRC2012_val_00000001"):
        load("imagenet", root=str(root))


def test_a_tree_without_validation(tree):
    root = tree()
    (root / "val").rename(root / "valid")
    with pytest.raises(DataError, match=rf"{root} no folder val or Data/CLS-LOC/val .* for validation"):
        load("imagenet", root=str(root))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_tar_shards(tmp_path, scheme):
    root = tmp_path / "wds"
    write_shard(root / "imagenet1k-train-0000.tar", [0, 1])
    write_shard(root / "imagenet1k-train-0001.tar", [2])
    write_shard(root / "deeper" / "imagenet1k-validation-00.tar", [2, 0])
    check(load("imagenet", root=f"{scheme}{root}"), TarImages, ["0", "1", "2"])


def test_the_index_is_kept_where_the_option_says(tmp_path, cache):
    write_shard(tmp_path / "wds" / "train-0.tar", [0, 1, 2])
    write_shard(tmp_path / "wds" / "val-0.tar", [0])
    load("imagenet", root=str(tmp_path / "wds"), cache_dir=str(tmp_path / "other"))
    assert list((tmp_path / "other").rglob("*.npy"))
    assert not cache.exists()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_parquet(tmp_path, scheme):
    root = tmp_path / "hub"
    write_parquet(root / "data" / "train-00000-of-00002.parquet", [0, 1])
    write_parquet(root / "data" / "train-00001-of-00002.parquet", [2])
    write_parquet(root / "data" / "validation-00000-of-00001.parquet", [2, 0])
    check(load("imagenet", root=f"{scheme}{root}"), ParquetImages)


def test_parquet_behind_a_url(server, cache):
    pytest.importorskip("aiohttp")
    write_parquet(server.folder / "data" / "train-00000-of-00001.parquet", [0, 1, 2])
    write_parquet(server.folder / "data" / "validation-00000-of-00001.parquet", [2, 0])
    check(load("imagenet", root=server.url), ParquetImages)
    assert len(list((cache / "shards").glob("*.parquet"))) == 2
    server.requests.clear()
    check(load("imagenet", root=server.url), ParquetImages)
    assert not [path for path in server.requests if path.endswith(".parquet")], "it comes from the cache"


def test_nothing_that_is_known(tmp_path):
    for name in ("b.zip", "a.txt", *(f"c{number}" for number in range(9))):
        (tmp_path / "root" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "root" / name).write_text("")
    match = r"root holds no train/CLASS/.*, tar shards, or Parquet files; it holds a\.txt, b\.zip, c0, c1, c2, …$"
    with pytest.raises(DataError, match=match):
        load("imagenet", root=str(tmp_path / "root"))


def test_nothing_at_all(tmp_path):
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match=r"it holds nothing$"):
        load("imagenet", root=str(tmp_path / "root"))


def test_both_shards_and_parquet(tmp_path):
    write_shard(tmp_path / "root" / "train.tar", [0])
    write_parquet(tmp_path / "root" / "train.parquet", [0])
    with pytest.raises(DataError, match=r"holds both train\.tar and train\.parquet: name the folder of one"):
        load("imagenet", root=str(tmp_path / "root"))


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "train/n01440764.tar", "ILSVRC2012_devkit_t12.tar"])
def test_the_archives_of_ilsvrc_are_to_be_unpacked(tmp_path, name):
    write_shard(tmp_path / "root" / name, [0])
    with pytest.raises(DataError, match=rf"archives as ILSVRC hands them out \({name}\): unpack them"):
        load("imagenet", root=str(tmp_path / "root"))


def test_a_missing_root_names_the_nearest_sibling(tree, tmp_path):
    root = tree(root="imagenet")
    with pytest.raises(FileNotFoundError, match=f"imagenett is not a folder, did you mean {root}\\?"):
        load("imagenet", root=str(tmp_path / "imagenett"))
