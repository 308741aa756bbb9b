import numpy as np
import pytest

from fvit.data.images import DataError, Pixels
from fvit.data.sources import Source, load


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar", {}, r"^data\.name=cifar is not a data source; known: digits, folder, fake, imagenet, "),
        ("digits", {"root": "x"}, r"^data\.root is not an option of data\.name=digits; it has no options$"),
        (
            "fake",
            {"size": 3},
            r"^data\.size is not an option of data\.name=fake; its options: num_images, ",
        ),
        ("fake", {"num_images": "many"}, r"^data\.num_images=many: input should be a valid integer"),
        ("fake", {"num_images": -5}, r"^data\.num_images=-5: input should be greater than 0"),
        ("fake", {"num_classes": 0}, r"^data\.num_classes=0: input should be greater than 0"),
        ("imagenet", {"root": "x", "cache_gib": -1}, r"^data\.cache_gib=-1: input should be greater than 0"),
        ("imagenette", {"root": "x", "size": "64px"}, r"^data\.size=64px: input should be '320px', '160px' or 'full'"),
        ("imagenet", {"root": "x", "cache_gib": None}, r"^data\.cache_gib=None: input should be a valid number"),
    ],
)
def test_unknown_source_or_invalid_option_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        load(name, **options)


@pytest.mark.parametrize("name", ["folder", "imagenet", "imagenette", "cifar10"])
def test_root_is_required(name):
    with pytest.raises(ValueError, match=rf"^data={name} needs data\.root: "):
        load(name)


@pytest.mark.parametrize("label", [-1, 3])
def test_label_without_a_class_names_the_image(label):
    pixels = np.zeros((3, 2, 2), dtype=np.uint8)
    good, bad = Pixels(pixels, [0, 1, 2]), Pixels(pixels, [0, label, 1])
    for train, val in ((good, bad), (bad, good)):
        with pytest.raises(DataError, match=rf"image 1 has label {label}, but the 3 classes .* labels from 0 to 2"):
            Source(train, val, ["a", "b", "c"])
