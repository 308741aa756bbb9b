"""Decoding with Pillow: every format and pixel mode to 8-bit RGB."""

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from fvit.data.images import BadImage

# Those of torchvision's ImageFolder, GIF and AVIF. Pillow knows more, and runs external programs for some of them.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")

# TIFF 6.0: tags, and values of SampleFormat and PhotometricInterpretation.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SMALLEST, _LARGEST = 258, 262, 339, 340, 341
_SIGNED, _WHITE_IS_ZERO = (2,), 0

_SAVE = "save it as unsigned integers of 8 or 16 bits"


def decode(data: bytes) -> np.ndarray:
    """Pixels uint8 [height, width, 3] of the first frame; any error of Pillow is a BadImage."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return np.asarray(to_rgb(image))
    except (MemoryError, BadImage):
        raise
    except UnidentifiedImageError:
        if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            kinds = "such as colours of floats, or floats of 64 bits"
            raise BadImage(
                f"Pillow cannot read this TIFF: it is damaged, or of a rare kind, {kinds}: {_SAVE}"
            ) from None
        raise BadImage("cannot identify image file") from None
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        raise BadImage(str(error) or type(error).__name__) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as RGB: alpha is dropped, as in torchvision, and deeper integers keep their highest 8 bits.

    Pillow's `convert` would clip 16-bit and 32-bit values to 255.

    Raises:
        BadImage: the values of black and white are unknown, because pixels are floats or signed integers, or those of
            an image in memory that does not say how many of its 32 bits count.
    """
    image.load()
    image.info.pop("transparency", None)  # Pillow would warn of a palette with alpha
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if image.mode == "I" and image.format is None:
        raise BadImage("its pixels are of mode I, integers of unknown range: give it mode L or I;16")
    if image.mode == "F" or image.mode.startswith("I") or tags.get(_SAMPLE_FORMAT) == _SIGNED:
        image = Image.fromarray(_grey(np.asarray(image), tags))
    elif image.mode == "La":  # grey multiplied by alpha
        image = image.convert("LA")
    elif image.mode == "LAB":
        image = ImageCms.applyTransform(image, _lab_to_rgb())
    return image.convert("RGB")


def _grey(values: np.ndarray, tags: Any) -> np.ndarray:
    """Grey levels, uint8 [H, W]: as in 16-bit RGB, which Pillow reduces itself, the highest 8 bits of an integer."""
    if values.dtype.kind != "f" and tags.get(_SAMPLE_FORMAT) != _SIGNED:
        [bits] = tags.get(_BITS, (16,))  # Pillow scales what is not TIFF to 16 bits
        grey = (values.astype(np.uint32) >> (bits - 8)).astype(np.uint8)
    else:
        black, white = _declared_range(tags, "floats" if values.dtype.kind == "f" else "signed integers")
        grey = np.nan_to_num((values - black) * (255 / (white - black))).clip(0, 255).round().astype(np.uint8)
    return 255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey


def _declared_range(tags: Any, kind: str) -> tuple[float, float]:
    declared = [float(np.ravel(tags[tag])[0]) for tag in (_SMALLEST, _LARGEST) if tag in tags]
    if len(declared) < 2 or not declared[0] < declared[1]:
        raise BadImage(
            f"its pixels are {kind} of unknown range: {_SAVE}, or as a TIFF with the tags SMinSampleValue and "
            "SMaxSampleValue"
        )
    return declared[0], declared[1]


@cache
def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
