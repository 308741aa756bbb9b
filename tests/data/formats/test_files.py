import gc
import pickle
import tracemalloc

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from fvit.data.formats.files import FileImages, image_names, list_tree
from fvit.data.images import BadImage, DataError

NAMES = ["a.jpg", "b.JPEG", "c.Png", "d.webp", "e.bmp", "f.tiff", "g.ppm"]


@pytest.fixture
def root(tmp_path):
    """Two classes, one of them with subfolders whose sorted order is not that of a tree walk."""
    for folder in ("one", "two", "two/sub", "two/sub-1", "two/sub/x", "two/empty"):
        (tmp_path / folder).mkdir()
    for folder in ("one", "two", "two/sub", "two/sub-1", "two/sub/x"):
        for name in NAMES:
            (tmp_path / folder / name).write_bytes(f"{folder}/{name}".encode())
    return tmp_path


def paths(images):
    return [(images.locate(index), int(label)) for index, label in enumerate(images.labels)]


def test_images_and_order_match_image_folder(root):
    (root / "one" / "notes.txt").write_text("no image")
    (root / "one" / "jpg").write_text("no image either")
    expected = ImageFolder(root).samples
    assert len(expected) == 5 * len(NAMES)
    assert paths(list_tree(root, ["one", "two"])) == expected


def test_images_are_read_in_any_order(root):
    images = list_tree(root, ["one", "two"])
    for index in np.random.default_rng(0).permutation(len(images)):
        assert str(root / images.read(index).decode()) == images.locate(index)


def test_hidden_files_and_folders_are_skipped(root):
    before = paths(list_tree(root, ["one", "two"]))
    (root / "one" / "._a.jpg").write_bytes(b"what macOS leaves behind")
    (root / "two" / ".trash").mkdir()
    (root / "two" / ".trash" / "a.jpg").write_bytes(b"deleted")
    assert paths(list_tree(root, ["one", "two"])) == before


def test_links_are_followed(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "z.jpg").write_bytes(b"z")
    (root / "three").symlink_to(elsewhere)
    (root / "one" / "link.jpg").symlink_to(elsewhere / "z.jpg")
    images = list_tree(root, ["one", "three"])
    assert [path.rpartition("/")[2] for path, label in paths(images) if label == 1] == ["z.jpg"]
    assert images.read(paths(images).index((str(root / "one" / "link.jpg"), 0))) == b"z"


def test_labels_follow_the_given_classes(root):
    images = list_tree(root, ["absent", "two", "one"])
    assert {path[len(str(root)) + 1 :].partition("/")[0]: label for path, label in paths(images)} == {
        "one": 2,
        "two": 1,
    }
    assert images.labels.dtype == np.int32


def test_file_names_may_be_invalid_unicode(tmp_path):
    (tmp_path / "one").mkdir()
    try:
        (tmp_path / "one" / "caf\udce9.jpg").write_bytes(b"latin")
    except OSError:
        pytest.skip("this file system only allows Unicode")
    (tmp_path / "one" / "naïve.jpg").write_bytes(b"unicode")
    images = list_tree(tmp_path, ["one"])
    assert sorted(images.read(index) for index in range(2)) == [b"latin", b"unicode"]


def test_empty_file_is_a_bad_image(root):
    (root / "one" / "a.jpg").write_bytes(b"")
    with pytest.raises(BadImage, match=r"one/a\.jpg is empty"):
        list_tree(root, ["one"]).read(0)


def test_missing_file_is_named(root):
    images = list_tree(root, ["one"])
    (root / "one" / "b.JPEG").unlink()
    with pytest.raises(DataError, match=r"one/b\.JPEG existed when the run started") as caught:
        images.read(1)
    assert not isinstance(caught.value, BadImage)
    assert images.read(2) == b"one/c.Png"


def test_other_read_errors_stay_os_errors(root):
    images = list_tree(root, ["one"])
    (root / "one" / "a.jpg").unlink()
    (root / "one" / "a.jpg").mkdir()
    with pytest.raises(IsADirectoryError):
        images.read(0)


def test_flat_folder(root):
    (root / "two" / "dir.jpg").mkdir()
    assert image_names(root / "two") == NAMES
    images = FileImages(root / "two", [("", NAMES, np.arange(len(NAMES)))])
    assert images.read(1) == b"two/b.JPEG"
    assert images.locate(1) == str(root / "two" / "b.JPEG")


def test_images_can_be_pickled(root):
    images = list_tree(root, ["one", "two"])
    assert paths(pickle.loads(pickle.dumps(images))) == paths(images)


def test_memory_per_image(tmp_path):
    names = [f"n01440764_{index}.JPEG" for index in range(100_000)]
    folders = [(f"class{label}", names[1000 * label :][:1000], label) for label in range(100)]
    gc.collect()
    objects = len(gc.get_objects())
    tracemalloc.start()
    images = FileImages(tmp_path, folders)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(gc.get_objects()) - objects < 200
    assert held < 50 * len(images)
    assert images.locate(54_321) == str(tmp_path / "class54" / "n01440764_54321.JPEG")
