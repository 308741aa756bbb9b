"""One image as it is stored in a shard."""

import io

import numpy as np
from PIL import Image

from fvit.data.formats.decode import Decoder


def encode(image: bytes | np.ndarray, decoder: Decoder, resize: int | None, quality: int) -> tuple[bytes, str]:
    """The bytes to store and the extension of their name.

    What is encoded already stays byte for byte unless it has to shrink, when it becomes an RGB JPEG with 4:2:0
    chroma. Pixels become PNG. Images are decoded in any case, to find the damaged ones.

    Args:
        image: encoded, or pixels uint8 [H, W] or [H, W, 3].
        decoder: strict.
        resize: pixels of the shorter side, where it is longer than that; None keeps all sizes. Bicubic, antialiased.
        quality: of JPEGs, 1 to 100.

    Raises:
        BadImage: it is damaged.
    """
    pixels = decoder(image)
    is_encoded = isinstance(image, bytes)
    height, width = pixels.shape[:2]
    short = min(height, width)
    shrinks = resize is not None and short > resize
    if is_encoded and not shrinks:
        return image, _extension(image)
    picture = Image.fromarray(pixels if is_encoded else image)
    if shrinks:
        size = (width * resize // short, height * resize // short)  # rounded as torchvision's Resize does
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if is_encoded:
        picture.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        return buffer.getvalue(), "jpg"
    picture.save(buffer, "PNG")
    return buffer.getvalue(), "png"


def _extension(data: bytes) -> str:
    """That of the content: ImageNet has a PNG under a JPEG's name."""
    if data.startswith(b"\xff\xd8"):
        return "jpg"
    with Image.open(io.BytesIO(data)) as image:
        return str(image.format).lower()
