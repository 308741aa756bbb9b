"""Trees of small images."""

import io

import numpy as np
import pytest
from PIL import Image

GREY = {"ant": 10, "bee": 90, "cow": 170, "dog": 250}


def write(path, level, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level,) * 3).save(path)


def level(data):
    """The mean grey level of an encoded image."""
    return float(np.asarray(Image.open(io.BytesIO(data)), dtype=float).mean())


def found(images, classes):
    """Classes and grey levels of the images, in order."""
    return [(classes[label], round(level(images.read(index)))) for index, label in enumerate(images.labels)]


def contents(images):
    """Bytes and label of each image, in order."""
    return [(bytes(images.read(index)), int(label)) for index, label in enumerate(images.labels)]


@pytest.fixture
def tree(tmp_path):
    """Make root/SPLIT/CLASS with one image each, alternately PNG and JPEG, whose grey level identifies the class."""

    def make(train=("ant", "bee", "cow"), val=("ant", "bee", "cow"), root="tree"):
        for split, classes in (("train", train), ("val", val)):
            (tmp_path / root / split).mkdir(parents=True)
            for index, name in enumerate(classes):
                write(tmp_path / root / split / name / ("one.png" if index % 2 else "one.jpg"), GREY[name])
        return tmp_path / root

    return make
