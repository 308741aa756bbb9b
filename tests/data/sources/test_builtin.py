from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fvit.data.sources import load
from tests.data.sources.conftest import contents


def test_digits_are_all_there_once_with_their_labels():
    source = load("digits")
    pixels, labels = load_digits(return_X_y=True)
    levels = np.round(pixels * 255 / 16).astype(np.uint8)
    expected = {(x.tobytes(), int(label)) for x, label in zip(levels, labels, strict=True)}
    train, val = contents(source.train), contents(source.val)
    assert (len(train), len(val), len(expected)) == (1437, 360, 1797)
    assert set(train) | set(val) == expected
    assert not set(train) & set(val)
    assert source.classes == [str(digit) for digit in range(10)]
    image = source.train.read(0)
    assert (image.shape, image.dtype, source.train.labels.dtype) == ((8, 8), np.uint8, np.int32)


def test_digits_are_stratified():
    total = Counter(load_digits(return_X_y=True)[1].tolist())
    val = Counter(load("digits").val.labels.tolist())
    assert sorted(val) == list(range(10))
    assert all(abs(val[digit] - 0.2 * total[digit]) < 1 for digit in range(10))


def test_sources_do_not_depend_on_the_global_generator():
    options = {"digits": {}, "fake": {"num_images": 12, "num_classes": 5, "image_size": 6}}
    for name in ("digits", "fake"):
        np.random.seed(1)  # noqa: NPY002
        first = load(name, **options[name])
        before = contents(first.train), contents(first.val)
        np.random.seed(2)  # noqa: NPY002
        second = load(name, **options[name])
        assert second.train.read(7).tobytes() == before[0][7][0], "out of order"
        assert (contents(second.train), contents(second.val)) == before


@pytest.mark.parametrize(("num_images", "num_val"), [(1, 1), (3, 1), (8, 2), (256, 64)])
def test_size_of_fake_data(num_images, num_val):
    source = load("fake", num_images=num_images, num_classes=3, image_size=5)
    assert (len(source.train), len(source.val)) == (num_images, num_val)
    assert source.classes == ["0", "1", "2"]
    assert (source.train.read(0).shape, source.train.read(0).dtype) == ((5, 5, 3), np.uint8)
    assert source.train.labels.dtype == np.int32
    assert set(source.train.labels.tolist()) <= {0, 1, 2}


def test_fake_images_differ_and_cover_classes_and_grey_levels():
    source = load("fake", num_images=200, num_classes=7)
    pixels = [image for image, _ in contents(source.train) + contents(source.val)]
    assert len(set(pixels)) == len(pixels) == 250
    assert set(source.train.labels.tolist()) == set(range(7))
    assert len(np.unique(source.train.read(3))) == 256
