"""Test images of every kind found in datasets of photographs."""

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fvit.data.formats import turbo

SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

needs_turbo = pytest.mark.skipif(turbo.library() is None, reason="libjpeg-turbo 3 or later was not found")
DECODERS = [pytest.param("turbo", marks=needs_turbo), "simplejpeg", "pil"]


def photo(width: int = 80, height: int = 60, seed: int = 0) -> np.ndarray:
    """Smooth colours, edges and some noise: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    stripes = 60 * ((np.arange(width) // 9 + np.arange(height)[:, None] // 7) % 2)
    return np.clip(pixels + noise + stripes[..., None], 0, 255).astype(np.uint8)


def jpeg(width: int = 80, height: int = 60, subsampling: str = "420", seed: int = 0, quality: int = 90) -> bytes:
    """A baseline JPEG; the subsampling ``Gray`` has one component."""
    pixels = photo(width, height, seed)
    if subsampling == "Gray":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[..., :1]), quality, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", subsampling)


def saved(pixels: np.ndarray, form: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    """A file written by PIL."""
    file, image = io.BytesIO(), Image.fromarray(pixels)
    (image if pixels.ndim == 2 else image.convert(mode)).save(file, form, **options)
    return file.getvalue()


def read_by_pil(data: bytes) -> Image.Image:
    """As in torchvision's ImageFolder."""
    image = Image.open(io.BytesIO(data))
    image.info.pop("transparency", None)  # of which PIL warns
    return image.convert("RGB")


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    return saved(photo(90, 50), exif=exif, quality=90)


_SIZES = ((1, 1), (1, 37), (37, 1), (700, 9), (9, 700), (17, 33), (311, 402))
ZOO: dict[str, Callable[[], bytes]] = {
    **{f"subsampling {name}": lambda name=name: jpeg(131, 77, name) for name in SUBSAMPLINGS},
    **{f"{width}x{height}": lambda size=(width, height): jpeg(*size) for width, height in _SIZES},
    "huge": lambda: jpeg(3000, 2000, quality=60),
    "progressive": lambda: saved(photo(150, 101), progressive=True),
    "progressive 4:4:4": lambda: saved(photo(99, 101), progressive=True, subsampling=0),
    "restart markers": lambda: saved(photo(120, 88), restart_marker_rows=1),
    "RGB components": lambda: saved(photo(), keep_rgb=True),
    "rotated by EXIF": rotated_by_exif,
    "CMYK": lambda: saved(photo(), mode="CMYK"),
    "PNG": lambda: saved(photo(), "PNG"),
    "palette PNG": lambda: saved(photo(), "PNG", "P"),
    "PNG with alpha": lambda: saved(photo(), "PNG", "RGBA"),
    "bilevel PNG": lambda: saved(photo(), "PNG", "1"),
    "grey PNG with alpha": lambda: saved(photo(), "PNG", "LA"),
    "palette PNG with alpha": lambda: saved(photo(), "PNG", "P", transparency=bytes(range(256))),
    "animated GIF": lambda: saved(photo(), "GIF", save_all=True, append_images=[Image.new("RGB", (80, 60))]),
    "AVIF": lambda: saved(photo(), "AVIF"),
    "WebP": lambda: saved(photo(), "WEBP"),
}


@cache
def specimen(name: str) -> bytes:
    """An image of the zoo, cached."""
    return ZOO[name]()
