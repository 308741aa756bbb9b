import struct
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder, VisionDataset

from fvit.data import ImageDataModule
from fvit.data.formats.torch_dataset import DatasetImages
from fvit.data.images import DataError
from fvit.data.sources import load

SMALL = {"image_size": [3, 6, 5], "num_classes": 4}


def fake(**options):
    return load("torchvision", dataset="FakeData", **options)


class Squares(VisionDataset):
    """As torchvision's classes are: sets by name, downloads, labels behind an underscore."""

    classes = [("black", "dark"), "grey", "white"]  # noqa: RUF012
    sets = {"train": [0, 1, 2, 2], "val": [2, 0], "test": [1]}  # noqa: RUF012

    def __init__(self, root, split="train", kind="plain", transform=None, download=False):
        super().__init__(root, transform=transform)
        if split not in self.sets:
            raise ValueError(
                f"Unknown value '{split}' for argument split. Valid values are {{{', '.join(self.sets)}}}."
            )
        if download:
            (self.root / split).touch()
        if not (self.root / split).exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        self._labels, self.kind, self.decoded = self.sets[split], kind, 0

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        self.decoded += 1
        label = self._labels[index]
        return Image.new("L", (4, 3), 100 * label), label


@pytest.fixture
def squares(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "Squares", Squares, raising=False)
    monkeypatch.setattr(torchvision.datasets, "__all__", [*torchvision.datasets.__all__, "Squares"])


def test_sets_classes_and_pixels_are_those_of_the_class(squares, tmp_path):
    source = load("torchvision", dataset="Squares", root=str(tmp_path / "new"))
    assert source.classes == ["black, dark", "grey", "white"]
    assert {name: images.labels.tolist() for name, images in source.splits.items()} == Squares.sets
    assert source.train.labels.dtype == np.int32
    pixels = source.train.read(1)
    assert (pixels.shape, pixels.dtype, set(pixels.ravel().tolist())) == ((3, 4, 3), np.uint8, {100})
    assert source.val.locate(1) == "image 1 of Squares (val)"
    assert source.train.dataset.decoded < 6, "labels are not read from all items"


def test_a_real_class_with_a_training_and_a_test_set(tmp_path):
    """FashionMNIST's files: a magic number, the sizes, and bytes."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 3), ("t10k", 2)):
        pixels = np.full((count, 28, 28), count, dtype=np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + bytes(range(count)))
    source = load("torchvision", dataset="FashionMNIST", root=str(tmp_path), download=False)
    assert (source.train.labels.tolist(), source.val.labels.tolist(), source.test) == ([0, 1, 2], [0, 1], None)
    assert source.classes[:2] == ["T-shirt/top", "Trouser"]
    assert (source.train.read(2).shape, source.val.read(1).max()) == ((28, 28, 3), 2)


def test_it_is_chosen_on_the_command_line(compose_config):
    sets = ["data.train={size: 24}", "data.val={size: 8, random_offset: 99}"]
    options = ["data.dataset=FakeData", "data.options={image_size: [3, 32, 32]}", "data.num_workers=0"]
    data = ImageDataModule(**compose_config("data=torchvision", *options, *sets)["data"], batch_size=8)
    assert [len(images) for images in data.source.splits.values()] == [24, 8]


def test_sets_can_be_chosen(squares, tmp_path):
    source = load("torchvision", dataset="Squares", root=str(tmp_path), train={"split": "test"}, val={"split": "train"})
    assert source.splits.keys() == {"train", "val"}
    assert (source.train.labels.tolist(), source.val.labels.tolist()) == ([1], [0, 1, 2, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"^data=torchvision needs data\.dataset: CIFAR10, "),
        ({"dataset": "CIFAR"}, r"^data\.dataset=CIFAR is not a dataset of torchvision; known: .*CIFAR10"),
        ({"dataset": "Squares"}, r"^data=torchvision needs data\.root: a folder with the files of Squares"),
        (
            {"dataset": "Squares", "root": "x", "download": False},
            r"Squares cannot be read from x: Dataset not found\.; set data\.download=true$",
        ),
        (
            {"dataset": "Squares", "root": "x", "options": {"knd": 1}},
            r"^data\.options\.knd is not an option of Squares; its options: split, kind$",
        ),
        (
            {"dataset": "Squares", "root": "x", "val": {"transform": "x"}},
            r"^data\.val\.transform is not an option of Squares",
        ),
        ({"dataset": "Squares", "root": "x", "train": {"split": "trn"}}, r"Squares refuses .*Unknown value 'trn'"),
        (
            {"dataset": "Squares", "root": "x", "options": {"split": "train"}},
            r"^data\.options\.split differs between sets: set it in data\.train and data\.val",
        ),
        ({"dataset": "FER2013", "root": "x"}, r"FER2013 cannot be read from x: .*torchvision cannot download it"),
        ({"dataset": "EMNIST", "root": "x"}, r"EMNIST cannot be built: .*'split'; set data\.options"),
        ({"dataset": "LFWPeople", "root": "x", "options": {"image_set": "x"}, "download": False}, "LFWPeople refuses"),
    ],
)
def test_mistakes_are_explained(squares, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load("torchvision", **options)


def test_a_class_in_one_piece_is_divided_by_class():
    source = fake(options={"size": 60, **SMALL})
    assert (len(source.train), len(source.val), source.classes) == (48, 12, ["0", "1", "2", "3"])
    whole = FakeData(60, (3, 6, 5), 4)
    labels = np.array([int(label) for _, label in whole])
    assert np.bincount(source.val.labels) == pytest.approx(np.bincount(labels) / 5, abs=1)
    assert np.array_equal(source.val.read(3), np.asarray(whole[int(source.val.indices[3])][0]))
    with pytest.raises(DataError, match=r"in one piece that cannot be divided .*set data\.train and data\.val"):
        fake(options={"size": 4, **SMALL})


def test_arguments_of_each_set_and_the_labels_of_items():
    source = fake(options=SMALL, train={"size": 24}, val={"size": 8, "random_offset": 99}, test={"size": 4})
    assert [len(images) for images in source.splits.values()] == [24, 8, 4]
    assert source.train.labels.tolist() == [int(label) for _, label in FakeData(24, (3, 6, 5), 4)]
    assert not np.array_equal(source.train.read(0), source.val.read(0))


OWN = """
import numpy as np
from torch.utils.data import Subset

class Numbers:
    classes = ["zero", "one"]

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index >= self.size:
            raise IndexError
        return np.full((4, 4), index, dtype=np.uint8), np.int64(index % 2)

def make(size=10):
    whole = Numbers(size)
    return Subset(whole, range(0, size, 2)), Subset(whole, [1, 3])

def three():
    return [(b"", 0)], [(b"", 2)], [(b"", 1)]

def one():
    return Numbers(3)

def other_classes():
    a, b = Numbers(3), Numbers(3)
    b.classes = ["one", "two"]
    return a, b

def fails():
    return {}["photos"]

number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_for_data.py").write_text(OWN)
    (tmp_path / "mine_that_fails.py").write_text("\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "mine_for_data"
    sys.modules.pop("mine_for_data", None)


def test_a_function_of_ones_own(mine):
    source = load("own", dataset=f"{mine}:make", options={"size": 6})
    assert (source.train.labels.tolist(), source.val.labels.tolist()) == ([0, 0, 0], [1, 1])
    assert source.classes == ["zero", "one"], "of the dataset that the subsets are from"
    assert [int(source.train.read(index)[0, 0]) for index in range(3)] == [0, 2, 4]
    assert source.val.locate(0) == f"image 0 of {mine}:make (val)"
    three = load("own", dataset=f"{mine}:three")
    assert (list(three.splits), three.classes) == (["train", "val", "test"], ["0", "1", "2"])


def test_its_images_reach_the_model(mine):
    data = ImageDataModule("own", img_size=4, batch_size=2, dataset=f"{mine}:make", crop_pct=1.0)
    batch = next(iter(data.val_dataloader()))
    assert (batch.images.shape, batch.labels.tolist()) == ((2, 4, 4, 3), [1, 1])
    assert batch.images[:, 0, 0, 0].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (None, None, r"^data=own needs data\.dataset: package\.module:function"),
        ("no_such_module:make", None, r"cannot be imported: .*no_such_module.*`python -m fvit\.train` also searches"),
        ("mine_for_data:mak", None, r"data\.dataset=mine_for_data:mak cannot be imported: "),
        ("mine_for_data:number", None, "is no function but int"),
        ("mine_for_data:make", {"siz": 1}, r"data\.options={'siz': 1} does not fit mine_for_data:make\(size=10\): "),
        ("mine_for_data:one", None, "one returned a Numbers, but must return two or three datasets"),
        ("mine_for_data:other_classes", None, "differ between train and val: two, zero"),
        (
            "mine_for_data:fails",
            None,
            r"data\.dataset=mine_for_data:fails failed: KeyError: 'photos' \(.*mine_for_data\.py, line \d+\); HYDRA_",
        ),
        (
            "mine_that_fails:make",
            None,
            r"=mine_that_fails:make cannot be imported: ZeroDivisionError: .* \(.*mine_that_fails\.py, line 2\)",
        ),
    ],
)
def test_what_it_must_be_is_said(mine, function, options, message):
    with pytest.raises(ValueError, match=message):
        load("own", dataset=function, options=options)


GREY = np.zeros((4, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "a is list without a length or without items"),
        (iter([(GREY, 0)]), "without a length or without items"),
        ([GREY], r"an item of a is ndarray uint8 \[4, 4\], but must be an image and the index"),
        (
            TensorDataset(torch.zeros(2, 3, 4, 4), torch.zeros(2)),
            r"image 0 of a is Tensor torch\.float32 \[3, 4, 4\].*leave transf",
        ),
        ([(GREY.astype(float), 0)], r"is ndarray float64 \[4, 4\], but must be a PIL image"),
        ([(GREY, 0), (GREY, "cat")], "image 1 of a has the label 'cat', which is not the index of a class"),
        ([(GREY, 0), (GREY, torch.tensor([1.0, 0.0]))], "has the label"),
    ],
)
def test_items_must_be_images_and_indices(dataset, message):
    with pytest.raises(DataError, match=message):
        DatasetImages(dataset, "a")


def test_attributes_that_are_no_labels_are_not_taken_for_them(tmp_path):
    class Odd(list):
        targets = (5, 6, 7)

    items = [(GREY, 2), (GREY, 0), (GREY, torch.tensor(1))]
    assert DatasetImages(Odd(items), "odd").labels.tolist() == [2, 0, 1]
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.new("P", (3, 3)).save(tmp_path / name / "0.png")
    folder = ImageFolder(tmp_path, target_transform=lambda label: 1 - label)
    assert DatasetImages(folder, "turned").labels.tolist() == [1, 0]
    assert DatasetImages(Subset(ImageFolder(tmp_path), [1]), "part").labels.tolist() == [1]
    assert DatasetImages(ImageFolder(tmp_path), "all").read(0).shape == (3, 3, 3)


@pytest.mark.parametrize("image", [GREY.astype(np.uint16), GREY.astype(float), np.zeros((4, 4, 4), np.uint8)])
def test_every_image_is_checked_when_it_is_read(image):
    images = DatasetImages([(GREY, 0), (image, 1)], "a")
    with pytest.raises(DataError, match=r"image 1 of a is ndarray .*, but must be a PIL image, a uint8 array"):
        images.read(1)
