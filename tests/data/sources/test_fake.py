import numpy as np
import pytest

from fvit.data.sources import load
from tests.data.sources.conftest import contents


def test_fake_is_a_function_of_the_index():
    np.random.seed(1)  # noqa: NPY002  noise must not follow the global generator
    first = load("fake", num_images=12, num_classes=5, image_size=6)
    before = contents(first.train), contents(first.val)
    np.random.seed(2)  # noqa: NPY002
    second = load("fake", num_images=12, num_classes=5, image_size=6)
    assert second.train.read(7).tobytes() == before[0][7][0], "out of order"
    assert (contents(second.train), contents(second.val)) == before


def test_fake_images_all_differ():
    source = load("fake", num_images=40, image_size=8)
    pixels = [image for image, _ in contents(source.train) + contents(source.val)]
    assert len(set(pixels)) == len(pixels) == 50


@pytest.mark.parametrize(("num_images", "num_val"), [(1, 1), (3, 1), (8, 2), (256, 64)])
def test_fake_sizes(num_images, num_val):
    source = load("fake", num_images=num_images, num_classes=3, image_size=5)
    assert (len(source.train), len(source.val)) == (num_images, num_val)
    assert source.classes == ["0", "1", "2"]
    assert (source.train.read(0).shape, source.train.read(0).dtype) == ((5, 5, 3), np.uint8)
    assert set(source.train.labels.tolist()) <= {0, 1, 2}
    assert source.train.labels.dtype == np.int32


def test_fake_covers_classes_and_grey_levels():
    source = load("fake", num_images=200, num_classes=7)
    assert set(source.train.labels.tolist()) == set(range(7))
    assert len(np.unique(source.train.read(3))) == 256
