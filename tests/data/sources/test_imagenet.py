import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image

from fvit.data.formats.files import FileImages
from fvit.data.formats.parquet import ParquetImages
from fvit.data.formats.tar import TarImages
from fvit.data.images import DataError
from fvit.data.sources import load
from fvit.data.sources.imagenet import _DEVKIT, ground_truth
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
    """All formats contain the same: one training image per class, and two for validation."""
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
def test_tree(tree, tmp_path, train, val, flat):
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


def test_ground_truth_in_the_devkit(tree):
    root = tree(val=())
    write(root / "val" / "ILSVRC2012_val_00000001.JPEG", GREY["bee"])
    devkit = root / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    (devkit / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 1")
    source = load("imagenet", root=str(root))
    assert found(source.val, CLASSES) == [("bee", GREY["bee"])]


def test_flat_validation_next_to_remains_of_an_archive(tree):
    root = tree(val=())
    write(root / "val" / "one.png", GREY["bee"])
    write(root / "val" / "__MACOSX" / "one.png", 0)
    (root / "val" / "two.jpg").symlink_to("/gone")
    (root / "val.txt").write_text("one.png 1")
    assert found(load("imagenet", root=str(root)).val, CLASSES) == [("bee", GREY["bee"])]


def test_val_is_both_flat_and_a_tree(tree):
    root = tree()
    write(root / "val" / "ILSVRC2012_val_00000001.JPEG", 1)
    with pytest.raises(DataError, match=rf"{root}/val contains both folders and images \(ILSVRC2012_val_00000001"):
        load("imagenet", root=str(root))


def test_tree_without_validation(tree):
    root = tree()
    (root / "val").rename(root / "valid")
    with pytest.raises(DataError, match=rf"{root} has no folder val or Data/CLS-LOC/val"):
        load("imagenet", root=str(root))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_tar_shards(tmp_path, scheme):
    root = tmp_path / "wds"
    write_shard(root / "imagenet1k-train-0000.tar", [0, 1])
    write_shard(root / "imagenet1k-train-0001.tar", [2])
    write_shard(root / "deeper" / "imagenet1k-validation-00.tar", [2, 0])
    check(load("imagenet", root=f"{scheme}{root}"), TarImages, ["0", "1", "2"])


def test_cache_dir(tmp_path, cache):
    write_shard(tmp_path / "wds" / "train-0.tar", [0, 1, 2])
    write_shard(tmp_path / "wds" / "val-0.tar", [0])
    load("imagenet", root=str(tmp_path / "wds"), cache_dir=str(tmp_path / "other"))
    assert list((tmp_path / "other").rglob("*.npz"))
    assert not cache.exists()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_parquet(tmp_path, scheme):
    root = tmp_path / "hub"
    write_parquet(root / "data" / "train-00000-of-00002.parquet", [0, 1])
    write_parquet(root / "data" / "train-00001-of-00002.parquet", [2])
    write_parquet(root / "data" / "validation-00000-of-00001.parquet", [2, 0])
    check(load("imagenet", root=f"{scheme}{root}"), ParquetImages)


def test_remote_parquet(server, cache):
    pytest.importorskip("aiohttp")
    write_parquet(server.folder / "data" / "train-00000-of-00001.parquet", [0, 1, 2])
    write_parquet(server.folder / "data" / "validation-00000-of-00001.parquet", [2, 0])
    check(load("imagenet", root=server.url), ParquetImages)
    assert len(list((cache / "shards").glob("*.parquet"))) == 2
    server.requests.clear()
    check(load("imagenet", root=server.url), ParquetImages)
    assert not [path for path in server.requests if path.endswith(".parquet")], "all of them are cached"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"but contains nothing$"),
        (
            ["b.zip", "a.txt", *(f"c{number}" for number in range(9))],
            r"root must contain train/CLASS/.*, or Parquet files, but contains a\.txt, b\.zip, c0, c1, c2, …$",
        ),
        (["train.tar", "train.parquet"], r"contains both train\.tar and train\.parquet: choose the folder of one"),
        (["ILSVRC2012_img_train.tar"], r"contains ILSVRC's archives \(ILSVRC2012_img_train\.tar\): unpack"),
        (["train/n01440764.tar"], r"contains ILSVRC's archives \(train/n01440764\.tar\): unpack"),
    ],
)
def test_unusable_content(tmp_path, files, message):
    (tmp_path / "root").mkdir()
    for name in files:
        (tmp_path / "root" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "root" / name).write_text("")
    with pytest.raises(DataError, match=message):
        load("imagenet", root=str(tmp_path / "root"))


# Labels of a flat validation folder

SYNSETS = ["n01440764", "n01443537", "n01484850"]
NAMES = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 6)]
LABELS = [2, 0, 1, 1, 2]
# ILSVRC's own IDs have another order than WordNet's, and include inner synsets.
IDS = {"n01440764": 3, "n01443537": 1, "n01484850": 2, "n00001740": 4}
# Lists with file names need not be sorted.
SHUFFLED = [3, 0, 4, 1, 2]


def write_text(folder, labels):
    (folder / "val.txt").write_text("".join(f"{NAMES[index]} {labels[index]}\n" for index in SHUFFLED))


def write_kaggle(folder, synsets):
    rows = "".join(f"{NAMES[i].removesuffix('.JPEG')},{synsets[i]} 1 2 3 4 {synsets[i]} 5 6 7 8\n" for i in SHUFFLED)
    (folder / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")


def write_devkit(folder, ids, meta=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{id_}\n" for id_ in ids))
    write_meta(meta or folder)


def write_meta(folder):
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    synsets = np.array([[(float(id_), wnid, "a fish", 0.0)] for wnid, id_ in IDS.items()], dtype=kind)
    scipy.io.savemat(folder / "meta.mat", {"synsets": synsets})


def synsets():
    return [SYNSETS[label] for label in LABELS]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_list_may_have_a_byte_order_mark(tmp_path, encoding):
    for write_list, argument, name in (
        (write_text, LABELS, "val.txt"),
        (write_kaggle, synsets(), "LOC_val_solution.csv"),
        (write_devkit, [IDS[synset] for synset in synsets()], "ILSVRC2012_validation_ground_truth.txt"),
    ):
        write_list(tmp_path, argument)
        path = tmp_path / name
        path.write_text(path.read_text(), encoding=encoding)
        assert ground_truth([tmp_path], NAMES, SYNSETS).tolist() == LABELS
        path.unlink()


def test_names_with_dots_need_no_extension_in_a_list(tmp_path):
    (tmp_path / "val.txt").write_text("a.b 1\na.c.JPG 0\n")
    assert ground_truth([tmp_path], ["a.b.jpg", "a.c.JPG"], SYNSETS).tolist() == [1, 0]


@pytest.mark.parametrize("names", [["a.jpg", "a.png"], ["a.JPG", "a.jpg"]])
def test_images_that_would_share_a_label_are_refused(tmp_path, names):
    (tmp_path / "val.txt").write_text(f"{names[0]} 0\n{names[1]} 1\n")
    with pytest.raises(DataError, match=rf"{names[0]} and {names[1]} would have one label: .*val\.txt names images by"):
        ground_truth([tmp_path], names, SYNSETS)


@pytest.mark.parametrize("form", ["label", "synset", "folder and synset", "no suffix"])
def test_val_txt(tmp_path, form):
    write_text(tmp_path, LABELS if form == "label" else synsets())
    path = tmp_path / "val.txt"
    if form == "folder and synset":
        path.write_text(path.read_text().replace("ILSVRC", "val/ILSVRC") + "\n")
    if form == "no suffix":
        path.write_text(path.read_text().replace(".JPEG", ""))
    assert ground_truth([tmp_path], NAMES, SYNSETS).tolist() == LABELS


def test_kaggle_solution(tmp_path):
    write_kaggle(tmp_path, synsets())
    labels = ground_truth([tmp_path], NAMES, SYNSETS)
    assert labels.tolist() == LABELS
    assert labels.dtype == np.int32


@pytest.mark.parametrize("meta_in_devkit", [False, True])
def test_devkit_ids_are_translated(tmp_path, meta_in_devkit):
    meta = None
    if meta_in_devkit:
        meta = tmp_path / _DEVKIT
        meta.mkdir(parents=True)
    write_devkit(tmp_path, [IDS[synset] for synset in synsets()], meta)
    assert ground_truth([tmp_path], NAMES, SYNSETS).tolist() == LABELS


def test_folders_are_searched_in_order(tmp_path):
    for name, labels in (("a", None), ("b", LABELS), ("c", [0] * 5)):
        (tmp_path / name).mkdir()
        if labels:
            write_text(tmp_path / name, labels)
    assert ground_truth([tmp_path / name for name in "abc"], NAMES, SYNSETS).tolist() == LABELS


def test_missing_list_is_reported(tmp_path):
    match = (
        rf"{NAMES[0]} and 4 more images .* none of {tmp_path} contains val\.txt or LOC_val_solution\.csv or ILSVRC2012_"
    )
    with pytest.raises(DataError, match=match):
        ground_truth([tmp_path], NAMES, SYNSETS)


def write_lines(name, text):
    return lambda folder: (folder / name).write_text(text)


LINES = "".join(f"{name} {label}\n" for name, label in zip(NAMES, LABELS, strict=True))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_lines("val.txt", LINES[: len(LINES) // 5]), r"val\.txt has 1 line for 5 images"),
        (lambda folder: write_devkit(folder, [1, 2, 3]), r"ground_truth\.txt has 3 lines for 5 images"),
        (write_lines("val.txt", LINES.replace("00003", "00004")), r"has no label for ILSVRC2012_val_00000003\.JPEG"),
        (lambda folder: write_text(folder, [0, 1, 2, 3, 0]), "'3' is not a class of train; .* 0 … 2 in"),
        (lambda folder: write_text(folder, [0, 1, 2, -1, 0]), "'-1' is not a class of train"),
        (lambda folder: write_kaggle(folder, [*synsets()[:4], "n02084071"]), "'n02084071' is not a class of train"),
        (lambda folder: write_devkit(folder, [1, 2, 3, 4, 1]), "'n00001740' is not a class of train"),
        (lambda folder: write_devkit(folder, [1, 2, 3, 1001, 1]), r"the ID 1001 is not in .*meta\.mat"),
        (write_lines("ILSVRC2012_validation_ground_truth.txt", "1\n2\n3\n1\n1\n"), r"need the devkit's meta\.mat"),
        (
            lambda folder: (folder / "val.txt").write_bytes(b"caf\xe9.jpg 1"),
            r"val\.txt is not a text in UTF-8 .* at byte 3",
        ),
        (write_lines("val.txt", "65\n970\n"), r"val\.txt, line 1: '65' is not a file name and a label"),
        (write_lines("LOC_val_solution.csv", "file,class\na,b\n"), r"PredictionString, but has \['file', 'class'\]"),
    ],
)
def test_invalid_list(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(DataError, match=message):
        ground_truth([tmp_path], NAMES, SYNSETS)


@pytest.mark.parametrize("content", [b"", b"not matlab" * 100, "truncated", "truncated and compressed", "others"])
def test_invalid_meta(tmp_path, content):
    write_devkit(tmp_path, [1, 2, 3, 1, 1])
    meta = tmp_path / "meta.mat"
    if content == "others":
        scipy.io.savemat(meta, {"others": np.arange(3)})
    else:
        if content == "truncated and compressed":
            scipy.io.savemat(meta, {"synsets": np.arange(5000)}, do_compression=True)
        meta.write_bytes(content if isinstance(content, bytes) else meta.read_bytes()[:400])
    with pytest.raises(DataError, match=r"meta\.mat is not the devkit's list of synsets"):
        ground_truth([tmp_path], NAMES, SYNSETS)
