import io

import numpy as np
import pytest
from PIL import Image

from fvit.data.formats import decode
from fvit.data.images import BadImage
from fvit.data.prepare.shard import Encoding, encode


@pytest.fixture(params=["pil", "auto"])
def decoder(request):
    return decode.choose(request.param)


def picture(size, mode="RGB", format="JPEG", **options):
    """A smooth picture, which JPEG hardly changes."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("mode", "format", "extension"),
    [
        ("RGB", "JPEG", "jpg"),
        ("L", "JPEG", "jpg"),
        ("CMYK", "JPEG", "jpg"),
        ("RGB", "PNG", "png"),
        ("P", "PNG", "png"),
        ("RGB", "WEBP", "webp"),
    ],
)
@pytest.mark.parametrize("resize", [None, 30, 31])
def test_small_images_are_unchanged(decoder, mode, format, extension, resize):
    data = picture((40, 30), mode, format)
    assert encode(data, Encoding(decoder, resize, 90)) == (data, extension)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((60, 40), (30, 20)),
        ((40, 60), (20, 30)),
        ((61, 40), (30, 20)),
        ((40, 99), (20, 49)),
        ((21, 21), (20, 20)),
    ],
)
def test_shorter_side_is_resized(decoder, size, expected):
    data, extension = encode(picture(size), Encoding(decoder, 20, 90))
    assert extension == "jpg"
    assert opened(data).size == expected


@pytest.mark.parametrize(("mode", "format"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGB", "WEBP")])
def test_resized_image_is_an_rgb_jpeg(decoder, mode, format):
    data, _ = encode(picture((60, 40), mode, format), Encoding(decoder, 20, 90))
    image = opened(data)
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert image.layer[0][1:3] == (2, 2), "4:2:0 chroma"
    expected = opened(picture((60, 40), mode, format)).convert("RGB").resize((30, 20), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean() < 4


def test_quality_of_the_jpeg(decoder):
    big, small = (encode(picture((600, 400)), Encoding(decoder, 200, quality))[0] for quality in (95, 50))
    assert len(small) < len(big)
    expected = io.BytesIO()
    Image.new("RGB", (8, 8)).save(expected, "JPEG", quality=50)
    assert opened(small).quantization == opened(expected.getvalue()).quantization


@pytest.mark.parametrize("shape", [(8, 8), (9, 7, 3)])
def test_pixels_become_a_png(decoder, shape):
    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    data, extension = encode(pixels, Encoding(decoder, 256, 90))
    assert extension == "png"
    assert np.array_equal(np.asarray(opened(data)), pixels)
    data, extension = encode(pixels, Encoding(decoder, 4, 90))
    assert (extension, min(opened(data).size)) == ("png", 4)


@pytest.mark.parametrize("resize", [None, 20])
def test_damaged_image_is_found_even_if_nothing_is_resized(decoder, resize):
    whole = picture((60, 40), quality=95)
    for data in (whole[: len(whole) // 2], b"", b"not an image", picture((60, 40), format="PNG")[:200]):
        with pytest.raises(BadImage):
            encode(data, Encoding(decoder, resize, 90))
