import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from fvit.data.sources import load

GREY = {"ant": 10, "bee": 90, "cow": 170, "dog": 250}


def contents(images):
    """Bytes and label of each image, in order."""
    return [(image.tobytes(), label) for image, label in (images[index] for index in range(len(images)))]


def write(path, level, size=(8, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).convert(mode).save(path)


@pytest.fixture
def tree(tmp_path):
    """Makes root/SPLIT/CLASS with an image each, of a grey that tells the class, in PNG and JPEG by turns."""

    def make(train=("ant", "bee", "cow"), val=("ant", "bee", "cow"), root="tree"):
        for split, classes in (("train", train), ("val", val)):
            (tmp_path / root / split).mkdir(parents=True)
            for index, name in enumerate(classes):
                write(tmp_path / root / split / name / ("one.png" if index % 2 else "one.jpg"), GREY[name])
        return tmp_path / root

    return make


def test_digits_are_split_80_to_20():
    source = load("digits")
    assert (len(source.train), len(source.val)) == (1437, 360)
    assert source.classes == [str(digit) for digit in range(10)]


def test_digits_are_all_there_once_with_their_labels():
    source = load("digits")
    pixels, labels = load_digits(return_X_y=True)
    expected = {
        (np.uint8(np.round(x * 255 / 16)).tobytes(), int(label)) for x, label in zip(pixels, labels, strict=True)
    }
    train, val = contents(source.train), contents(source.val)
    assert len(expected) == 1797, "the digits differ from each other, so that their bytes identify them"
    assert len(train) + len(val) == 1797
    assert set(train) | set(val) == expected
    assert not set(train) & set(val)


def test_digits_are_stratified():
    source = load("digits")
    total = Counter(load_digits(return_X_y=True)[1].tolist())
    val = Counter(label for _, label in contents(source.val))
    assert sorted(val) == list(range(10))
    assert all(abs(val[digit] - 0.2 * total[digit]) < 1 for digit in range(10))


def test_digits_are_the_same_at_each_load():
    np.random.seed(1)  # noqa: NPY002  the split must not follow the global generator
    first = load("digits")
    np.random.seed(2)  # noqa: NPY002
    second = load("digits")
    assert contents(first.train) == contents(second.train)
    assert contents(first.val) == contents(second.val)


def test_digits_are_grey_images_over_the_full_range():
    source = load("digits")
    image, label = source.train[0]
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("L", (8, 8))
    assert type(label) is int
    levels = set(b"".join(pixels for pixels, _ in contents(source.train)))
    assert levels == {round(level * 255 / 16) for level in range(17)}


def test_folder_reads_png_and_jpeg_as_rgb(tree):
    source = load("folder", root=tree())
    for images in (source.train, source.val):
        assert [label for _, label in contents(images)] == [0, 1, 2]
        for (image, _), name in zip(images, source.classes, strict=True):
            assert (image.mode, image.size) == ("RGB", (8, 6))
            assert np.abs(np.asarray(image, dtype=int) - GREY[name]).max() <= 1
    assert source.classes == ["ant", "bee", "cow"]


def test_folder_takes_a_string_and_a_home_directory(tree, monkeypatch):
    root = tree()
    monkeypatch.setenv("HOME", str(root.parent))
    assert contents(load("folder", root=f"~/{root.name}").val) == contents(load("folder", root=str(root)).val)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_folder_reads_other_modes_as_rgb(tmp_path, mode):
    for split in ("train", "val"):
        write(tmp_path / split / "ant" / f"one.{'jpg' if mode == 'CMYK' else 'png'}", 100, mode=mode)
    image, _ = load("folder", root=tmp_path).val[0]
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image, dtype=int) - 100).max() <= 1


@pytest.mark.parametrize("missing", ["ant", "bee", "cow"])
@pytest.mark.parametrize("folder_left", [True, False])
def test_a_class_missing_in_val_shifts_no_label(tree, missing, folder_left):
    present = [name for name in ("ant", "bee", "cow") if name != missing]
    root = tree(val=present)
    if folder_left:
        (root / "val" / missing).mkdir()
    source = load("folder", root=root)
    found = {source.classes[label]: pixels[0] for pixels, label in contents(source.val)}
    assert {name: round(level, -1) for name, level in found.items()} == {name: GREY[name] for name in present}


def test_folder_needs_a_root():
    with pytest.raises(ValueError, match=r"data\.root: a folder that holds train/CLASS/\*\.jpg and val/CLASS"):
        load("folder", root=None)


def test_a_missing_root_names_the_nearest_sibling(tree, tmp_path):
    root = tree(root="imagenet")
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=f"imagenett is not a folder, did you mean {root}\\?"):
        load("folder", root=tmp_path / "imagenett")


@pytest.mark.parametrize("root", ["xyzzy", "absent/deeper"])
def test_a_missing_root_without_a_near_name(tree, tmp_path, root):
    tree(root="imagenet")
    with pytest.raises(FileNotFoundError, match=f"data.root={tmp_path / root} is not a folder$"):
        load("folder", root=tmp_path / root)


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"images\.zip is not a folder"):
        load("folder", root=tmp_path / "images.zip")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split(tree, split):
    root = tree()
    (root / split).rename(root / "other")
    with pytest.raises(FileNotFoundError, match=f"{root} has no folder '{split}'; it needs train/CLASS/"):
        load("folder", root=root)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("holding", ["nothing", "an empty class", "no images"])
def test_an_empty_split(tree, split, holding):
    root = tree(train=("ant",), val=("ant",))
    shutil.rmtree(root / split / "ant")
    if holding == "nothing":
        # A class that only val has would be another mistake.
        shutil.rmtree(root / "val" / "ant", ignore_errors=True)
    else:
        (root / split / "ant").mkdir()
    if holding == "no images":
        (root / split / "ant" / "notes.txt").write_text("no image")
    with pytest.raises((FileNotFoundError, ValueError), match=rf"{root / split} .*CLASS/\*\.jpg"):
        load("folder", root=root)


def test_classes_that_train_lacks_are_named(tree):
    root = tree(train=("ant", "bee"), val=("ant", "cow", "dog"))
    with pytest.raises(ValueError, match=r"holds 2 classes that train lacks: cow, dog\. Remove them, or add"):
        load("folder", root=root)


def test_many_classes_that_train_lacks_are_shortened(tree):
    root = tree()
    for index in range(7):
        (root / "val" / f"new{index}").mkdir()
    with pytest.raises(ValueError, match=r"holds 7 classes that train lacks: new0, new1, new2, new3, new4, …\."):
        load("folder", root=root)


def test_fake_is_a_function_of_the_index():
    torch.manual_seed(1)
    first = load("fake", num_images=12, num_classes=5, image_size=6)
    before = contents(first.train), contents(first.val)
    torch.manual_seed(2)
    second = load("fake", num_images=12, num_classes=5, image_size=6)
    assert (contents(second.train), contents(second.val)) == before
    assert second.train[7][0].tobytes() == before[0][7][0], "out of order"


def test_fake_leaves_the_global_generator_alone():
    source = load("fake", num_images=2)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    source.train[1]
    assert torch.equal(torch.rand(3), expected)


def test_fake_images_all_differ():
    source = load("fake", num_images=40, image_size=8)
    pixels = [image for image, _ in contents(source.train) + contents(source.val)]
    assert len(pixels) == 50
    assert len(set(pixels)) == 50


@pytest.mark.parametrize(("num_images", "num_val"), [(1, 1), (3, 1), (8, 2), (256, 64)])
def test_fake_sizes(num_images, num_val):
    source = load("fake", num_images=num_images, num_classes=3, image_size=5)
    assert (len(source.train), len(source.val)) == (num_images, num_val)
    assert source.classes == ["0", "1", "2"]
    assert source.train[0][0].size == (5, 5)
    assert {label for _, label in contents(source.train)} <= {0, 1, 2}


def test_an_unknown_source_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown data source 'cifar'; known: digits, folder, fake"):
        load("cifar")
