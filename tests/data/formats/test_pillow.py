"""Every pixel mode becomes the picture that it shows, in all decoders and in fvit-prepare."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin, TiffTags

from fvit.data.formats.decode import choose
from fvit.data.formats.pillow import to_rgb
from fvit.data.images import BadImage
from fvit.data.prepare.shard import Encoding, encode
from tests.data.pictures import DECODERS

# Every grey level, smooth enough for a JPEG.
RAMP = np.repeat(np.arange(256, dtype=np.uint8)[None], 48, axis=0)
GREY, HALF = Image.fromarray(RAMP), Image.new("L", (256, 48), 128)
DEEP = RAMP.astype(np.uint16) * 257


def file(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def tiff(pixels, **tags):
    """A TIFF of an array, with tags by number."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tags.items():
        info[int(number[1:])] = value
        if isinstance(value, float):
            info.tagtype[int(number[1:])] = TiffTags.DOUBLE
    return file(Image.fromarray(pixels), "TIFF", tiffinfo=info)


def patched(data, tag, before, after):
    """Change a tag that Pillow writes, which contains one short integer."""
    old, new = (tag.to_bytes(2, "little") + bytes((3, 0, 1, 0, 0, 0, value)) for value in (before, after))
    assert old in data
    return data.replace(old, new)


def twelve_bits():
    values = RAMP.astype(np.uint16) * 16 + 15
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    entries = {256: 256, 257: 48, 258: 12, 259: 1, 262: 1, 273: 200, 277: 1, 278: 48, 279: len(packed)}
    directory = b"".join(
        key.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little") for key, value in entries.items()
    )
    return (b"II*\0\x08\0\0\0" + len(entries).to_bytes(2, "little") + directory).ljust(200, b"\0") + packed


def lab():
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    return file(ImageCms.applyTransform(GREY.convert("RGB"), to_lab), "TIFF")


FILES = {
    "1": lambda: file(GREY.convert("1"), "PNG"),
    "L": lambda: file(GREY, "PNG"),
    "L with a transparent colour": lambda: file(GREY, "PNG", transparency=7),
    "LA": lambda: file(Image.merge("LA", (GREY, HALF)), "PNG"),
    "La": lambda: patched(file(Image.merge("LA", (GREY, Image.new("L", GREY.size, 255))), "TIFF"), 338, 2, 1),
    "P": lambda: file(GREY.convert("P"), "PNG"),
    "P with alpha": lambda: file(GREY.convert("P"), "PNG", transparency=bytes(range(256))),
    "PA": lambda: file(Image.merge("LA", (GREY, HALF)).convert("PA"), "TIFF"),
    "RGB": lambda: file(GREY.convert("RGB"), "PNG"),
    "RGBA": lambda: file(Image.merge("RGBA", (GREY, GREY, GREY, HALF)), "PNG"),
    "CMYK": lambda: file(GREY.convert("RGB").convert("CMYK"), "TIFF"),
    "YCbCr": lambda: file(Image.merge("YCbCr", (GREY, HALF, HALF)), "TIFF"),
    "LAB": lab,
    "I;16 PNG": lambda: file(Image.fromarray(DEEP), "PNG"),
    "I;16 PNG with a transparent colour": lambda: file(Image.fromarray(DEEP), "PNG", transparency=7),
    "I;16 TIFF": lambda: tiff(DEEP),
    "I;16 TIFF, compressed": lambda: file(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"),
    "I;16 TIFF, 0 is white": lambda: tiff(65535 - DEEP, _262=0),
    "I;16B TIFF": lambda: tiff(DEEP.astype(">u2")),
    "12 bits": twelve_bits,
    "I PGM": lambda: file(Image.fromarray(DEEP), "PPM"),
    "I PGM up to 4095": lambda: b"P5 256 48 4095\n" + (RAMP.astype(np.uint16) * 16 + 8).astype(">u2").tobytes(),
    "I TIFF": lambda: patched(tiff((RAMP.astype(np.uint32) * 0x01010101).view(np.int32)), 339, 2, 1),
    "I TIFF with sign and a range": lambda: tiff(RAMP.astype(np.int32) * 10 - 1000, _340=-1000.0, _341=1550.0),
    "F TIFF with a range": lambda: tiff(RAMP.astype(np.float32) / 255, _340=0.0, _341=1.0),
    "F TIFF with a range, 0 is white": lambda: tiff(1 - RAMP.astype(np.float32) / 255, _262=0, _340=0.0, _341=1.0),
    "AVIF": lambda: file(GREY, "AVIF", quality=100),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_pixels_of_every_mode(decoder, name):
    data = FILES[name]()
    mode = name.split()[0].strip(",")
    assert mode in (Image.open(io.BytesIO(data)).mode, "12", "AVIF", "P")
    expected = 255 * (np.asarray(GREY.convert("1")).astype(int)) if name == "1" else RAMP.astype(int)
    pixels = choose(decoder)(data)
    assert (pixels.shape, pixels.dtype) == ((48, 256, 3), np.uint8)
    # LAB has 256 levels as well, which are spaced differently.
    assert np.abs(pixels - expected[..., None]).max() <= (2 if name == "LAB" else 0)


@pytest.mark.parametrize("name", [name for name in FILES if name != "1"])
def test_prepared_pixels_of_every_mode(name):
    data, _ = encode(FILES[name](), Encoding(choose(), 24, 100))
    expected = np.asarray(GREY.resize((128, 24), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(Image.open(io.BytesIO(data))) - expected[..., None]).max() <= 4


def test_pixels_that_are_no_numbers_are_black():
    pixels = choose()(tiff(np.array([[np.nan, -np.inf, 0.5, np.inf]], dtype=np.float32), _340=0.0, _341=1.0))
    assert pixels[0, :, 0].tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("form", ["floats of 64 bits", "colours of floats"])
def test_tiff_that_pillow_cannot_read_is_refused_with_the_remedy(decoder, form):
    data = tiff(RAMP.astype(np.float32))
    data = patched(data, 258, 32, 64) if "64" in form else patched(data, 262, 1, 2)
    with pytest.raises(BadImage, match=r"cannot read this TIFF: it is damaged, .*: save it as unsigned integers of 8 "):
        choose(decoder)(data)


def test_integers_in_memory_are_of_unknown_range():
    assert np.asarray(to_rgb(Image.fromarray(DEEP)))[0, :, 0].tolist() == list(range(256))
    with pytest.raises(BadImage, match=r"pixels are of mode I, integers of unknown range: give it mode L or I;16"):
        to_rgb(Image.fromarray(RAMP.astype(np.int32)))
    with pytest.raises(BadImage, match="its pixels are floats of unknown range"):
        to_rgb(Image.fromarray(RAMP.astype(np.float32)))


UNKNOWN = {
    "floats": lambda: tiff(RAMP.astype(np.float32)),
    "floats of a PFM": lambda: file(Image.fromarray(RAMP.astype(np.float32)), "PPM"),
    "floats with half a range": lambda: tiff(RAMP.astype(np.float32), _341=1.0),
    "floats with an empty range": lambda: tiff(RAMP.astype(np.float32), _340=1.0, _341=1.0),
    "signed integers": lambda: tiff(RAMP.astype(np.int32)),
    "signed integers of 8 bits": lambda: tiff(RAMP, _339=2),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("decoder", DECODERS)
def test_unknown_range_is_refused_with_the_remedy(decoder, name):
    kind = "floats" if "floats" in name else "signed integers"
    match = rf"its pixels are {kind} of unknown range: save it as unsigned integers of 8 or 16 bits"
    with pytest.raises(BadImage, match=match):
        choose(decoder)(UNKNOWN[name]())
    with pytest.raises(BadImage, match=match):
        encode(UNKNOWN[name](), Encoding(choose(decoder), None, 90))
