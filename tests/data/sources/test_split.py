import csv
import io
from pathlib import Path

import numpy as np
import pytest

from fvit.data.images import DataError
from fvit.data.sources import load
from tests.data.sources.conftest import write

COUNTS = {"ant": 20, "bee": 10, "cow": 3}


@pytest.fixture
def flat(tmp_path):
    """Make ROOT/CLASS with so many images each, whose grey level is their number."""

    def make(root="flat", counts=COUNTS, first=0):
        for name, count in counts.items():
            for number in range(first, first + count):
                write(tmp_path / root / name / f"{number}.png", number)
        return tmp_path / root

    return make


def files(images, root):
    return {images.locate(index).removeprefix(f"{root}/") for index in range(len(images))}


def split_of(root, **options):
    source = load("folder", root=root, **options)
    return {name: files(images, root) for name, images in source.splits.items()}


def test_a_test_split_of_0_is_none(flat):
    root = flat()
    assert split_of(root, val_split=0.1, test_split=0) == split_of(root, val_split=0.1)
    with pytest.raises(ValueError, match=r"data\.test_split=-0\.1: input should be greater than 0"):
        load("folder", root=root, val_split=0.1, test_split=-0.1)


def test_each_class_has_its_share_and_each_image_one_place(flat):
    root = flat()
    source = load("folder", root=root, val_split=0.1, test_split=0.2)
    counts = {name: np.bincount(images.labels, minlength=3).tolist() for name, images in source.splits.items()}
    assert counts == {"train": [14, 7, 1], "val": [2, 1, 1], "test": [4, 2, 1]}
    sets = split_of(root, val_split=0.1, test_split=0.2)
    assert sorted(name for one in sets.values() for name in one) == sorted(
        files(load("folder", root=root, val_split=1).val, root)
    )
    for images in source.splits.values():
        for index, label in enumerate(images.labels):
            place = images.locate(index)
            assert place.startswith(f"{root}/{source.classes[label]}/")
            assert bytes(images.read(index)) == Path(place).read_bytes()


def test_the_names_and_the_seed_alone_decide(flat, tmp_path):
    root = flat()
    chosen = split_of(root, val_split=0.3)
    (tmp_path / "elsewhere").mkdir()
    moved = root.rename(tmp_path / "elsewhere" / "other")
    assert split_of(moved, val_split=0.3) == chosen
    assert split_of(moved, val_split=0.3, split_seed=1) != chosen
    assert split_of(moved, val_split=0.3, test_split=0.3)["val"] == chosen["val"]
    (moved / "train").mkdir()
    for name in COUNTS:
        (moved / name).rename(moved / "train" / name)
    assert split_of(moved / "train", val_split=0.3) == chosen
    assert {
        name: {file.removeprefix("train/") for file in one} for name, one in split_of(moved, val_split=0.3).items()
    } == chosen


def test_images_that_are_added_move_few_others(flat):
    counts = {"ant": 100}
    before = split_of(flat(counts=counts), val_split=0.2)
    after = split_of(flat(counts={"ant": 10}, first=100), val_split=0.2)
    assert len(after["val"]) == 22
    assert len(after["train"] & before["val"]) + len(after["val"] & before["train"]) <= 4


def test_what_is_held_out_is_recorded(flat):
    root = flat()
    source = load("folder", root=root, val_split=0.1, test_split=0.2)
    [(name, text)] = source.records.items()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert name == "split.csv"
    for split in ("val", "test"):
        assert {row["file"] for row in rows if row["split"] == split} == files(source.splits[split], root)
    assert {row["split"] for row in rows} == {"val", "test"}
    assert source.fingerprint() != load("folder", root=root, val_split=0.1, test_split=0.2, split_seed=1).fingerprint()


def test_all_images_can_be_held_out(flat):
    source = load("folder", root=flat(), val_split=1)
    assert (len(source.train), len(source.val), source.test) == (0, 33, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"flat has no folder 'train'; .*data\.val_split=0\.1, which holds out a tenth of each class of CLASS"),
        ({"test_split": 0.1}, "has no folder 'train'"),
        ({"val_split": 0.6, "test_split": 0.6}, r"data.val_split=0.6 and data.test_split=0.6 add up to more"),
        ({"val_split": 0}, "greater than 0"),
        ({"val_split": 1.5}, "less than or equal to 1"),
        (
            {"val_split": 0.5, "test_split": 0.4},
            "class cow has 3 of the images in .*flat, too few for .*train, val, test",
        ),
    ],
)
def test_impossible_splits_are_refused(flat, options, message):
    counts = COUNTS if "test_split" not in options else {**COUNTS, "cow": 2}
    message = message.replace("has 3", "has 2")
    with pytest.raises((ValueError, FileNotFoundError, DataError), match=message):
        load("folder", root=flat(counts=counts), **options)


def test_a_split_of_a_folder_that_exists_is_refused(tree):
    with pytest.raises(ValueError, match=r"data\.val_split=0\.1 has no effect: .*/val exists"):
        load("folder", root=tree(), val_split=0.1)
    (tree(root="other") / "train").rename(tree(root="third") / "rest")
    with pytest.raises(FileNotFoundError, match="other has no folder 'train'"):
        load("folder", root=tree(root="fourth").parent / "other", test_split=0.1)


def test_a_test_folder_is_the_test_set(tree, caplog):
    root = tree()
    assert load("folder", root=root).test is None
    write(root / "test" / "cow" / "a.png", 5)
    write(root / "test" / "ant" / "b.png", 6)
    source = load("folder", root=root)
    assert source.test.labels.tolist() == [0, 2]
    assert len(source.val) == 3
    write(root / "test" / "dog" / "c.png", 7)
    with pytest.raises(ValueError, match="test has 1 class that train does not have: dog"):
        load("folder", root=root)


def test_a_test_folder_without_labels_is_none(tree, caplog):
    root = tree()
    write(root / "test" / "unknown" / "a.png", 5)
    assert load("folder", root=root).test is None
    assert "test has no subfolders named after the classes of train, and is no test set" in caplog.text
