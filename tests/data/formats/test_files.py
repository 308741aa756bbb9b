import gc
import pickle
import threading
import time
import tracemalloc

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from fvit.data.formats import files
from fvit.data.formats.files import FileImages, image_names, list_images, list_tree, listing
from fvit.data.images import BadImage, DataError

NAMES = ["a.jpg", "b.JPEG", "c.Png", "d.webp", "e.bmp", "f.tiff", "g.ppm"]


@pytest.fixture
def root(tmp_path):
    """Two classes, one of them with sub-folders whose sorted order is not that of their depth."""
    for folder in ("one", "two", "two/sub", "two/sub-1", "two/sub/x", "two/empty"):
        (tmp_path / folder).mkdir()
    for folder in ("one", "two", "two/sub", "two/sub-1", "two/sub/x"):
        for name in NAMES:
            (tmp_path / folder / name).write_bytes(f"{folder}/{name}".encode())
    return tmp_path


def paths(images):
    return [(images.locate(index), int(label)) for index, label in enumerate(images.labels)]


def test_images_and_their_order_are_those_of_image_folder(root):
    (root / "one" / "notes.txt").write_text("no image")
    (root / "one" / "jpg").write_text("no image either")
    expected = ImageFolder(root).samples
    assert len(expected) == 5 * len(NAMES)
    assert paths(list_tree(root, ["one", "two"])) == expected


def test_each_image_is_read_whole_in_any_order(root):
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


def test_labels_follow_the_given_classes_and_a_missing_one_shifts_none(root):
    images = list_tree(root, ["absent", "two", "one"])
    assert {path[len(str(root)) + 1 :].partition("/")[0]: label for path, label in paths(images)} == {
        "one": 2,
        "two": 1,
    }
    assert images.labels.dtype == np.int32


def test_names_that_are_no_unicode(tmp_path):
    (tmp_path / "one").mkdir()
    try:
        (tmp_path / "one" / "caf\udce9.jpg").write_bytes(b"latin")
    except OSError:
        pytest.skip("this file system takes Unicode alone")
    (tmp_path / "one" / "naïve.jpg").write_bytes(b"unicode")
    images = list_tree(tmp_path, ["one"])
    assert sorted(images.read(index) for index in range(2)) == [b"latin", b"unicode"]


def test_a_folder_that_cannot_be_listed_is_an_error(root, monkeypatch):
    def walk(top, followlinks, onerror):
        onerror(PermissionError(13, "Permission denied", top))
        return iter(())

    monkeypatch.setattr("os.walk", walk)
    with pytest.raises(PermissionError, match="one"):
        list_tree(root, ["one"])


@pytest.mark.parametrize(("seconds", "threads"), [(0.0, 1), (0.02, 16)])
def test_a_slow_file_system_is_asked_by_threads(tmp_path, monkeypatch, seconds, threads):
    def list_slowly(root, folder):
        time.sleep(seconds)
        names.add(threading.current_thread().name)
        return list_images(root, folder)

    names, classes = set(), [f"class{number:02}" for number in range(60)]
    for name in classes:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(name.encode())
    monkeypatch.setattr(files, "list_images", list_slowly)
    monkeypatch.setattr(files, "_SLOW_SECONDS", 0.015)
    images = list_tree(tmp_path, classes)
    assert [images.read(index).decode() for index in range(60)] == classes
    assert len(names - {threading.current_thread().name}) == threads


def test_an_empty_file_is_a_bad_image(root):
    (root / "one" / "a.jpg").write_bytes(b"")
    with pytest.raises(BadImage, match=r"one/a\.jpg is empty"):
        list_tree(root, ["one"]).read(0)


def test_a_file_that_went_is_named(root):
    images = list_tree(root, ["one"])
    (root / "one" / "b.JPEG").unlink()
    with pytest.raises(DataError, match=r"one/b\.JPEG is missing") as caught:
        images.read(1)
    assert not isinstance(caught.value, BadImage)
    assert images.read(2) == b"one/c.Png"


def test_another_failure_to_read_stays_an_os_error(root):
    images = list_tree(root, ["one"])
    (root / "one" / "a.jpg").unlink()
    (root / "one" / "a.jpg").mkdir()
    with pytest.raises(IsADirectoryError):
        images.read(0)


def test_names_of_one_folder(root):
    (root / "two" / "dir.jpg").mkdir()
    assert image_names(root / "two") == NAMES
    images = FileImages(root / "two", [listing("", NAMES)], np.arange(len(NAMES)))
    assert images.read(1) == b"two/b.JPEG"
    assert images.locate(1) == str(root / "two" / "b.JPEG")


def test_a_set_can_be_pickled(root):
    images = list_tree(root, ["one", "two"])
    assert paths(pickle.loads(pickle.dumps(images))) == paths(images)


def test_an_image_costs_no_object_and_few_bytes(tmp_path):
    names = [f"n01440764_{index}.JPEG" for index in range(100_000)]
    listings = [listing(f"class{start}", names[start : start + 1000]) for start in range(0, 100_000, 1000)]
    labels = np.repeat(np.arange(100, dtype=np.int32), 1000)
    gc.collect()
    objects = len(gc.get_objects())
    tracemalloc.start()
    images = FileImages(tmp_path, listings, labels)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(gc.get_objects()) - objects < 200
    assert held < 50 * len(images)
    assert images.locate(54_321) == str(tmp_path / "class54000" / "n01440764_54321.JPEG")
