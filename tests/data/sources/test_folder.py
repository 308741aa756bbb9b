import itertools
import shutil

import pytest

from fvit.data.images import DataError
from fvit.data.sources import load
from tests.data.sources.conftest import GREY, contents, found, write


def test_files_are_read_unchanged(tree):
    root = tree()
    source = load("folder", root=root)
    assert source.classes == ["ant", "bee", "cow"]
    for split, images in (("train", source.train), ("val", source.val)):
        files = sorted((root / split).rglob("one.*"))
        assert contents(images) == [(file.read_bytes(), label) for label, file in enumerate(files)]


def test_home_directory_is_expanded(tree, monkeypatch):
    root = tree()
    monkeypatch.setenv("HOME", str(root.parent))
    assert contents(load("folder", root=f"~/{root.name}").val) == contents(load("folder", root=str(root)).val)


@pytest.mark.parametrize("missing", ["ant", "bee", "cow"])
@pytest.mark.parametrize("folder_left", [True, False])
def test_class_missing_in_val_does_not_shift_labels(tree, missing, folder_left):
    present = [name for name in ("ant", "bee", "cow") if name != missing]
    root = tree(val=present)
    if folder_left:
        (root / "val" / missing).mkdir()
    source = load("folder", root=root)
    assert found(source.val, source.classes) == [(name, GREY[name]) for name in present]


def test_hidden_folders_are_ignored(tree):
    root = tree()
    write(root / "train" / ".cache" / "one.jpg", 0)
    assert load("folder", root=root).classes == ["ant", "bee", "cow"]


def test_missing_root_suggests_a_sibling(tree, tmp_path):
    root = tree(root="imagenet")
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=f"imagenett is not a folder, did you mean {root}\\?"):
        load("folder", root=tmp_path / "imagenett")


@pytest.mark.parametrize("root", ["xyzzy", "absent/deeper"])
def test_missing_root_without_a_similar_sibling(tree, tmp_path, root):
    tree(root="imagenet")
    with pytest.raises(FileNotFoundError, match=f"data.root={tmp_path / root} is not a folder$"):
        load("folder", root=tmp_path / root)


def test_root_is_a_file(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"images\.zip is not a folder"):
        load("folder", root=tmp_path / "images.zip")


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_split(tree, split):
    root = tree()
    (root / split).rename(root / "other")
    with pytest.raises(FileNotFoundError, match=f"{root} has no folder '{split}'; it needs train/CLASS/"):
        load("folder", root=root)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("holding", ["nothing", "an empty class", "no images"])
def test_empty_split(tree, split, holding):
    root = tree(train=("ant",), val=("ant",))
    shutil.rmtree(root / split / "ant")
    if holding == "nothing":
        # Otherwise, val would have a class that train does not have.
        shutil.rmtree(root / "val" / "ant", ignore_errors=True)
    else:
        (root / split / "ant").mkdir()
    if holding == "no images":
        (root / split / "ant" / "notes.txt").write_text("not an image")
    with pytest.raises(FileNotFoundError, match=rf"{root / split} .*CLASS/\*\.jpg"):
        load("folder", root=root)


def test_classes_only_in_val_are_named(tree):
    root = tree(train=("ant", "bee"), val=("ant", "cow", "dog"))
    with pytest.raises(ValueError, match=r"has 2 classes that train does not have: cow, dog\. Remove or add them"):
        load("folder", root=root)
    for index in range(7):
        (root / "val" / f"a{index}").mkdir()
    with pytest.raises(ValueError, match=r"has 9 classes that train does not have: a0, a1, a2, a3, a4, …\."):
        load("folder", root=root)


def test_class_without_images_is_refused(tree):
    root = tree()
    for name in ("cat", "dog", "bee2"):
        (root / "train" / name).mkdir()
    (root / "train" / "dog" / "notes.txt").write_text("no image")
    (root / "train" / "cat" / "1.jpg").symlink_to("/gone")
    match = r"train has folders without images: bee2, cat, dog\. Add images of these classes, or remove them"
    with pytest.raises(DataError, match=match):
        load("folder", root=root)


@pytest.mark.parametrize("split", ["train", "val"])
def test_dead_link_among_the_classes_is_refused(tree, split):
    root = tree()
    (root / split / "dog").symlink_to("/gone")
    with pytest.raises(DataError, match=rf"{split}/dog is a link to /gone, which cannot be found: repair or remove it"):
        load("folder", root=root)


@pytest.mark.parametrize(
    ("name", "split"), [*itertools.product(("folder", "imagenet"), ("train", "val", "")), ("folder", "test")]
)
def test_dead_link_to_a_split_is_refused(tree, name, split):
    root = tree() / split
    if root.exists():
        root.rename(root.with_name("elsewhere"))
    root.symlink_to("/gone")
    with pytest.raises(DataError, match=rf"{root} is a link to /gone, which cannot be found: repair or remove it"):
        load(name, root=str(root.parent if split else root))


def test_images_beside_the_classes_are_named(tree, caplog):
    root = tree()
    for index in range(9):
        write(root / "train" / f"{index}.jpg", 0)
    assert len(load("folder", root=root).train) == 3
    assert "left out 9 images of " in caplog.text
    assert "train, which are in no folder of a class: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, …" in caplog.text
    with pytest.raises(
        FileNotFoundError, match=r"ant contains no images in folders, but 1 besides them; it needs CLASS"
    ):
        load("folder", root=root / "train" / "ant", val_split=0.5)


@pytest.mark.parametrize("split", ["train", "val"])
def test_remains_of_an_archive_are_no_class(tree, split):
    root = tree()
    write(root / split / "__MACOSX" / "one.jpg", 0)
    (root / split / "self").symlink_to(".")
    source = load("folder", root=root)
    assert source.classes == ["ant", "bee", "cow"]
    assert (len(source.train), len(source.val)) == (3, 3)
