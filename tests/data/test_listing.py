"""Links and folders that are no pictures, wherever files are listed."""

import os

import pytest

from fvit.data import listing
from fvit.data.formats.files import image_names, list_tree
from fvit.data.images import DataError
from fvit.data.inference import find_images
from fvit.data.storage.base import LocalStorage


@pytest.fixture
def root(tmp_path):
    """Two folders of two images each."""
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(name.encode())
    return tmp_path / "root"


def trees(root):
    images = list_tree(root, ["a", "b"])
    return [(images.read(index).decode(), int(label)) for index, label in enumerate(images.labels)]


def found(where):
    images = find_images(where)
    return [images.read(index).decode() for index in range(len(images))]


def names(root):
    return [file.name for file in LocalStorage(root).files([".jpg"])]


EXPECTED = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]


@pytest.mark.parametrize(
    "links", [{"a/x": "."}, {"a/x": ".."}, {"a/x": "../.."}, {"a/x": ".", "a/y": ".", "b/z": ".."}]
)
def test_link_back_is_left_out_and_named(root, links, caplog):
    for link, target in links.items():
        (root / link).symlink_to(target)
    assert trees(root) == [(name, "ab".index(name[0])) for name in EXPECTED]
    assert found(root) == found(root / "**/*.jpg") == found(root / "*/*.jpg") == names(root) == EXPECTED
    assert image_names(root / "a") == ["1.jpg", "2.jpg"]
    for link in links:
        assert f"left out {root / link}: it is a link to " in caplog.text


def test_links_to_each_other_end(root):
    (root / "a" / "x").symlink_to("../b")
    (root / "b" / "y").symlink_to("../a")
    assert sorted(trees(root)) == [
        *(("a/1.jpg", 0), ("a/1.jpg", 1), ("a/2.jpg", 0), ("a/2.jpg", 1)),
        *(("b/1.jpg", 0), ("b/1.jpg", 1), ("b/2.jpg", 0), ("b/2.jpg", 1)),
    ]


def test_link_among_the_classes_that_leads_back_is_no_class(root):
    (root / "c").symlink_to(".")
    assert listing.entries(str(root))[0] == ["a", "b", "c"]
    assert found(root) == EXPECTED
    assert len(list_tree(root, ["a", "b", "c"])) == 4


def test_dead_link_is_left_out_and_named(root, caplog):
    (root / "a" / "3.jpg").symlink_to("/gone.jpg")
    (root / "a" / "more").symlink_to("/gone")
    (root / "b" / "4.jpg").symlink_to("4.jpg")
    (root / "b" / "notes.txt").symlink_to("/gone.txt")
    os.mkfifo(root / "b" / "5.jpg")
    assert [name for name, _ in trees(root)] == EXPECTED
    [record] = caplog.records
    text = record.getMessage()
    assert text.startswith("left out 4 unusable files: ")
    for name, reason in {
        "a/3.jpg": "is a link to /gone.jpg, which cannot be found",
        "a/more": "is a link to /gone, which cannot be found",
        "b/4.jpg": "is a link to 4.jpg, which cannot be found",
        "b/5.jpg": "is not a regular file",
    }.items():
        assert f"{root / name} {reason}" in text
    assert image_names(root / "b") == ["1.jpg", "2.jpg"]
    assert found(root) == EXPECTED


def test_dead_link_to_a_shard_is_an_error(root):
    (root / "a" / "3.jpg").symlink_to("/gone.jpg")
    with pytest.raises(
        DataError, match=r"a/3\.jpg is a link to /gone\.jpg, which cannot be found: repair or remove it"
    ):
        names(root)
    assert [file.name for file in LocalStorage(root).files([".tar"])] == []


def test_long_list_is_shortened(root, caplog):
    for index in range(30):
        (root / "a" / f"x{index:02}.jpg").symlink_to("/gone")
    assert len(trees(root)) == 4
    assert caplog.text.count("which cannot be found") == 5
    assert "left out 30 unusable files" in caplog.text


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "#recycle", "lost+found", ".git"])
def test_folders_of_operating_systems_are_skipped(root, name):
    for folder in (root / name, root / "a" / name):
        folder.mkdir()
        (folder / "1.jpg").write_bytes(b"a thumbnail")
    assert [file for file, _ in trees(root)] == found(root) == found(root / "**/*") == names(root) == EXPECTED


def test_folder_that_cannot_be_listed_is_an_error(root, monkeypatch):
    def scandir(folder, real=os.scandir):
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr("os.scandir", scandir)
    for use in (trees, found, names):
        with pytest.raises(DataError, match=rf"{root}/b cannot be listed: permission denied"):
            use(root)
