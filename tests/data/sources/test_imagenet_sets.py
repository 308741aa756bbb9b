import shutil

import pytest
from timm.data import ImageNetInfo, RealLabelsImagenet

from fvit.data.images import DataError
from fvit.data.sources import load
from fvit.data.sources.imagenet_sets import _synsets
from tests.data.sources.conftest import level, write

SYNSETS = ImageNetInfo("imagenet-1k").label_names()


def folders(root, names):
    """An image in each folder, whose grey level is the place of its name."""
    write(root / names[0] / "0.png", 0)
    for place, name in enumerate(names):
        if place < 3 or place > len(names) - 3:
            write(root / name / "0.png", place % 256)
        else:
            (root / name).mkdir()
            shutil.copy(root / names[0] / "0.png", root / name / "0.png")
    return root


def test_v2_has_its_classes_by_number_not_by_text(tmp_path):
    source = load("imagenet_v2", root=folders(tmp_path / "v2", [str(number) for number in range(1000)]))
    assert source.classes == SYNSETS
    assert (len(source.train), source.val.labels.tolist()) == (0, list(range(1000)))
    assert [level(source.val.read(index)) for index in (2, 998, 999)] == [2, 998 % 256, 999 % 256]


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_a_and_r_have_200_of_the_classes(name, tmp_path):
    with pytest.raises(DataError, match=f"data.name={name} needs data.root: the folder that contains n0"):
        load(name)
    (tmp_path / "n99999999").mkdir()
    with pytest.raises(DataError, match=rf"is not {name}, which has 200 folders, n0\d+, n0\d+ and so on: it lacks n0"):
        load(name, root=tmp_path)
    classes = load(name, root=folders(tmp_path / "images", _synsets(name))).classes
    assert len(classes) == 200
    assert set(classes) < set(SYNSETS)
    assert classes == sorted(classes)


def test_sketch_has_all_classes_and_no_other(tmp_path):
    root = folders(tmp_path / "sketch", SYNSETS)
    source = load("imagenet_sketch", root=root)
    assert source.classes == SYNSETS
    assert source.val.labels.tolist() == list(range(1000))
    (root / "n99999999").mkdir()
    with pytest.raises(DataError, match="it has besides n99999999"):
        load("imagenet_sketch", root=root)


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    """A validation image per class, in folders, with ILSVRC's names in an order of their own."""
    root = tmp_path_factory.mktemp("val")
    write(root / "picture.png", 9)
    for place, name in enumerate(SYNSETS):
        (root / name).mkdir()
        shutil.copy(root / "picture.png", root / name / f"ILSVRC2012_val_{1 + 7 * place:08d}.png")
    (root / "picture.png").unlink()
    return root


def test_real_labels_are_those_of_timm(validation):
    source = load("imagenet_real", root=str(validation))
    theirs = RealLabelsImagenet([None] * 50_000).real_labels
    assert source.val.labels.tolist() == list(range(1000))
    assert len(source.real) == 1000
    for index, ours in enumerate(source.real):
        assert ours == theirs[f"ILSVRC2012_val_{1 + 7 * index:08d}.JPEG"]
    assert {len(labels) for labels in source.real} > {0, 1, 2}


def test_real_labels_need_the_names_and_the_classes(validation, tmp_path, tree):
    with pytest.raises(DataError, match=r"needs ImageNet's 1,000 classes; .*tree lacks n0"):
        load("imagenet_real", root=str(tree()))
    root = tmp_path / "renamed"
    shutil.copytree(validation, root)
    [image] = (root / SYNSETS[0]).iterdir()
    image.rename(image.with_name("first.png"))
    with pytest.raises(
        DataError, match=r"first\.png has no number: the labels of ReaL go with the file names of ILSVRC"
    ):
        load("imagenet_real", root=str(root))
