from collections import Counter

import numpy as np
from sklearn.datasets import load_digits

from fvit.data.sources import load
from tests.data.sources.conftest import contents


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
    val = Counter(source.val.labels.tolist())
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
    image = source.train.read(0)
    assert (image.shape, image.dtype) == ((8, 8), np.uint8)
    assert source.train.labels.dtype == np.int32
    levels = set(b"".join(pixels for pixels, _ in contents(source.train)))
    assert levels == {round(level * 255 / 16) for level in range(17)}
