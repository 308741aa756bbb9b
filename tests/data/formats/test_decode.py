import math
import random
import sys

import numpy as np
import pytest
from timm.data import create_transform
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import hflip, resized_crop

from fvit.data.formats import turbo
from fvit.data.formats.decode import Decoder, choose, read_frame
from fvit.data.transforms.image import EvalTransform, TrainTransform, random_box
from tests.data.pictures import (
    DECODERS,
    SUBSAMPLINGS,
    ZOO,
    jpeg,
    needs_turbo,
    photo,
    read_by_pil,
    rotated_by_exif,
    saved,
    specimen,
)

# Differences in grey levels from torch's fixed-point resampling, which rounds differently. The mean over an image is
# usually 0.01; with another filter, or a crop that is off by a pixel, it is more than 1.
MEAN, MOST = 0.1, 2


def assert_same_picture(found, expected):
    difference = np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int))
    assert difference.mean() <= MEAN
    assert difference.max() <= MOST


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("decoder", DECODERS)
def test_decoding_matches_pil(decoder, name):
    assert np.array_equal(choose(decoder)(specimen(name)), read_by_pil(specimen(name)))


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("decoder", DECODERS)
def test_training_crops_match_torchvision(decoder, name):
    data, image = specimen(name), read_by_pil(specimen(name))
    for seed in range(1 if name == "huge" else 3):
        x, y, width, height = random_box(*image.size, (0.08, 1), (3 / 4, 4 / 3), random.Random(seed))
        expected = resized_crop(image, y, x, height, width, [224, 224], InterpolationMode.BICUBIC)
        crop = TrainTransform(choose(decoder), 224, hflip=0)
        assert_same_picture(crop(data, random.Random(seed)), expected)
        mirror = TrainTransform(choose(decoder), 224, hflip=1)
        assert_same_picture(mirror(data, random.Random(seed)), hflip(expected))


# 384 / 438 is 0.8767; 224 / 0.9 is 248.9.
@pytest.mark.parametrize(
    ("size", "crop_pct", "short_side"), [(224, 0.875, 256), (384, 384 / 438, 438), (224, 0.9, 248)]
)
@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("decoder", DECODERS)
def test_evaluation_matches_torchvision(decoder, name, size, crop_pct, short_side):
    expected = Compose([Resize(short_side, InterpolationMode.BICUBIC), CenterCrop(size)])(read_by_pil(specimen(name)))
    assert_same_picture(EvalTransform(choose(decoder), size, crop_pct)(specimen(name)), expected)


@pytest.mark.parametrize("crop_pct", [0.95, 0.9, 0.875, 0.85, 0.77])
@pytest.mark.parametrize("size", [32, 96, 224, 255, 384])
def test_shorter_side_of_evaluation_is_that_of_timm(size, crop_pct):
    resized = create_transform(size, crop_pct=crop_pct).transforms[0]
    assert EvalTransform(Decoder("pil"), size, crop_pct).least[0] == resized.size == math.floor(size / crop_pct)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(96, 64), (64, 96), (40, 200), (96, 96)])
@pytest.mark.parametrize("name", ["progressive", "progressive 4:4:4"])
def test_evaluation_of_any_shape_matches_timm(name, size, mode):
    options = {"crop_pct": 0.9, "crop_mode": mode, "interpolation": "bicubic"}
    expected = Compose(create_transform(size, **options).transforms[:2])
    found = EvalTransform(choose("pil"), size, 0.9, crop_mode=mode)(specimen(name))
    assert_same_picture(found, expected(read_by_pil(specimen(name))))


def test_training_crops_have_another_height_than_width():
    name = next(iter(ZOO))
    assert TrainTransform(choose("pil"), (96, 64))(specimen(name), random.Random(0)).shape == (96, 64, 3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_exif_orientation_is_ignored(decoder):
    assert choose(decoder)(rotated_by_exif()).shape == (50, 90, 3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_crop_is_chosen_from_the_image_size(decoder):
    sizes = []

    def corner(width, height):
        sizes.append((width, height))
        return 3, 5, width - 3, height - 5

    for data in (jpeg(61, 47), saved(photo(61, 47), "PNG"), photo(61, 47)):
        assert np.array_equal(choose(decoder)(data, corner), choose(decoder)(data)[5:, 3:])
    assert sizes == [(61, 47)] * 3


@pytest.mark.parametrize("decoder", DECODERS)
def test_trailing_data_is_ignored(decoder):
    """Cameras append previews."""
    for rest in (b"\0" * 10, b"\0" * 1000, jpeg(8, 8)):
        data = jpeg() + rest
        assert np.array_equal(choose(decoder)(data), read_by_pil(jpeg()))
        assert np.array_equal(choose(decoder)(data, lambda w, h: (9, 9, 9, 9)), pil_crop(jpeg()))


def pil_crop(data):
    return np.asarray(read_by_pil(data))[9:18, 9:18]


def test_pixels_are_only_cropped():
    grey, colour = photo()[..., 0], photo()
    assert np.array_equal(Decoder("pil")(colour), colour)
    assert np.array_equal(Decoder("pil")(grey), np.stack([grey] * 3, axis=-1))
    assert np.array_equal(Decoder("pil")(grey, lambda w, h: (2, 3, 4, 5)), np.stack([grey[3:8, 2:6]] * 3, axis=-1))


@pytest.mark.parametrize(("subsampling", "mcu_width"), list(zip(SUBSAMPLINGS, (8, 16, 16, 8, 32, 8), strict=True)))
def test_frame_of_a_jpeg(subsampling, mcu_width):
    components = 1 if subsampling == "Gray" else 3
    assert read_frame(jpeg(131, 77, subsampling)) == (0xC0, 8, 77, 131, components, mcu_width)


def test_frame_after_other_segments():
    data = jpeg(131, 77)
    comment, padding = b"\xff\xfe\x00\x06\xff\xc0\xff\xc0", b"\xff\xff\xff"
    assert read_frame(data[:2] + comment + padding + data[2:]) == read_frame(data)
    assert read_frame(specimen("progressive")).kind == 0xC2


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n", jpeg()[:50], b"\xff\xd8" * 20])
def test_no_frame(data):
    assert read_frame(data) is None


@needs_turbo
def test_auto_prefers_turbo():
    assert choose("auto").name == choose().name == "turbo"


def test_auto_takes_what_is_installed(monkeypatch):
    monkeypatch.setattr(turbo, "library", lambda: None)
    assert choose("auto").name == "simplejpeg"
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert choose("auto").name == "pil"
    assert np.array_equal(choose("auto")(jpeg()), read_by_pil(jpeg()))


def test_missing_decoder_says_what_to_install(monkeypatch):
    monkeypatch.setattr(turbo, "library", lambda: None)
    with pytest.raises(ValueError, match=r"data\.decoder=turbo needs libjpeg-turbo 3 or later .*install"):
        choose("turbo")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(ValueError, match=r"data\.decoder=simplejpeg needs the package: pip install simplejpeg"):
        choose("simplejpeg")


def test_unknown_decoder_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"data\.decoder=cv2 must be one of auto, turbo, simplejpeg, pil"):
        choose("cv2")
