import math
import random
import sys

import numpy as np
import pytest
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import hflip, resized_crop

from fvit.data.formats import decode
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

# Grey levels that a pixel may be off, where torch's fixed-point resampling rounds as PIL's does not. The mean over an
# image is a hundredth of a level; another filter, or a crop that is off by a pixel, makes it whole ones.
MEAN, MOST = 0.1, 2


def assert_same_picture(found, expected):
    difference = np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int))
    assert difference.mean() <= MEAN
    assert difference.max() <= MOST


# The same pixels as PIL and torchvision.


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("decoder", DECODERS)
def test_decoding_is_that_of_pil(decoder, name):
    assert np.array_equal(choose(decoder)(specimen(name)), read_by_pil(specimen(name)))


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("decoder", DECODERS)
def test_training_crops_are_those_of_torchvision(decoder, name):
    data, image = specimen(name), read_by_pil(specimen(name))
    for seed in range(1 if name == "huge" else 4):
        x, y, width, height = random_box(*image.size, (0.08, 1), (3 / 4, 4 / 3), random.Random(seed))
        expected = resized_crop(image, y, x, height, width, [224, 224], InterpolationMode.BICUBIC)
        crop = TrainTransform(choose(decoder), 224, hflip=0)
        assert_same_picture(crop(data, random.Random(seed)), expected)
        mirror = TrainTransform(choose(decoder), 224, hflip=1)
        assert_same_picture(mirror(data, random.Random(seed)), hflip(expected))


@pytest.mark.parametrize(("size", "short_side"), [(224, 256), (384, 438)])
@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("decoder", DECODERS)
def test_evaluation_is_that_of_torchvision(decoder, name, size, short_side):
    expected = Compose([Resize(short_side, InterpolationMode.BICUBIC), CenterCrop(size)])(read_by_pil(specimen(name)))
    transform = EvalTransform(choose(decoder), size, size / short_side)
    assert transform.short_side == short_side == math.floor(size / (size / short_side))
    assert_same_picture(transform(specimen(name)), expected)


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_orientation_in_exif_is_ignored(decoder):
    assert choose(decoder)(rotated_by_exif()).shape == (50, 90, 3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_box_is_chosen_from_the_image_s_size(decoder):
    sizes = []

    def corner(width, height):
        sizes.append((width, height))
        return 3, 5, width - 3, height - 5

    for data in (jpeg(61, 47), saved(photo(61, 47), "PNG"), photo(61, 47)):
        assert np.array_equal(choose(decoder)(data, corner), choose(decoder)(data)[5:, 3:])
    assert sizes == [(61, 47)] * 3


@pytest.mark.parametrize("decoder", DECODERS)
def test_what_follows_the_end_of_a_file_does_not_matter(decoder):
    """Cameras append previews."""
    for rest in (b"\0" * 10, b"\0" * 1000, jpeg(8, 8)):
        data = jpeg() + rest
        assert np.array_equal(choose(decoder)(data), read_by_pil(jpeg()))
        assert np.array_equal(choose(decoder)(data, lambda w, h: (9, 9, 9, 9)), photo_crop(jpeg()))


def photo_crop(data):
    return np.asarray(read_by_pil(data))[9:18, 9:18]


def test_pixels_are_cut_alone():
    grey, colour = photo()[..., 0], photo()
    assert np.array_equal(Decoder("pil")(colour), colour)
    assert np.array_equal(Decoder("pil")(grey), np.stack([grey] * 3, axis=-1))
    assert np.array_equal(Decoder("pil")(grey, lambda w, h: (2, 3, 4, 5)), np.stack([grey[3:8, 2:6]] * 3, axis=-1))


# What a JPEG's header says.


@pytest.mark.parametrize(("subsampling", "mcu_width"), list(zip(SUBSAMPLINGS, (8, 16, 16, 8, 32, 8), strict=True)))
def test_the_frame_of_a_jpeg(subsampling, mcu_width):
    components = 1 if subsampling == "Gray" else 3
    assert read_frame(jpeg(131, 77, subsampling)) == (0xC0, 8, 77, 131, components, mcu_width)


def test_the_frame_lies_behind_other_segments():
    data = jpeg(131, 77)
    comment, padding = b"\xff\xfe\x00\x06\xff\xc0\xff\xc0", b"\xff\xff\xff"
    assert read_frame(data[:2] + comment + padding + data[2:]) == read_frame(data)
    assert read_frame(specimen("progressive")).kind == 0xC2


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n", jpeg()[:50], b"\xff\xd8" * 20])
def test_no_frame(data):
    assert read_frame(data) is None


# Which decoder.


@needs_turbo
def test_auto_takes_turbo_first():
    assert choose("auto").name == choose().name == "turbo"


def test_auto_takes_what_is_installed(monkeypatch):
    monkeypatch.setattr(decode, "library", lambda: None)
    assert choose("auto").name == "simplejpeg"
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert choose("auto").name == "pil"


def test_a_decoder_that_is_not_installed_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(decode, "library", lambda: None)
    with pytest.raises(ValueError, match=r"data\.decoder=turbo needs libjpeg-turbo of version 3 .*install"):
        choose("turbo")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(ValueError, match=r"data\.decoder=simplejpeg needs the package: pip install simplejpeg"):
        choose("simplejpeg")


def test_an_unknown_decoder_lists_the_known():
    with pytest.raises(ValueError, match="unknown decoder 'cv2'; known: auto, turbo, simplejpeg, pil"):
        choose("cv2")
