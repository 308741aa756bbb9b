"""From the bytes of an image to pixels, in the fastest way that this machine and this image allow."""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from fvit.data.formats.turbo import Turbo, library
from fvit.data.images import BadImage

Box = tuple[int, int, int, int]
"""x, y, width and height of a part of an image, in pixels."""

NAMES = ("auto", "turbo", "simplejpeg", "pil")

# The frames that libjpeg-turbo decodes alike in all its builds: baseline, extended and progressive, Huffman coded.
_TURBO_FRAMES = (0xC0, 0xC1, 0xC2)
# PIL refuses a header that claims more than 1.8e8, before memory is taken for them.
_TURBO_PIXELS = 1e8
# Those of torchvision's ImageFolder. PIL knows more, and starts other programs for some of them.
_PIL_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))


class Decoder:
    """Decodes an image, or the part of it that is asked for, strictly: whatever a decoder notices is an error.

    JPEGs of one or three components go to libjpeg-turbo; all else (CMYK, arithmetic coding, PNG under a JPEG's name, …)
    goes to PIL. An EXIF orientation is ignored, as torchvision's ImageFolder does.

    Args:
        name: ``turbo`` (libjpeg-turbo ≥ 3, decodes only the box), ``simplejpeg`` (decodes all of it) or ``pil``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._turbo = Turbo() if name == "turbo" else None

    def __call__(self, data: bytes | np.ndarray, choose: Callable[[int, int], Box] | None = None) -> np.ndarray:
        """Pixels uint8 [height, width, 3].

        Args:
            data: an encoded image, or pixels uint8 [H, W] or [H, W, 3], which are cut alone.
            choose: gets the image's width and height and returns the box that is wanted; None for all of it.

        Raises:
            BadImage: it is damaged or no image; the text is the reason.
        """
        if isinstance(data, np.ndarray):
            return _cut(data if data.ndim == 3 else np.repeat(data[..., None], 3, axis=2), choose)
        frame = read_frame(data) if self.name != "pil" else None
        if frame is None or not _suits_turbo(frame):
            return _cut(_decode_with_pil(data), choose)
        try:
            if self._turbo is None:
                from simplejpeg import decode_jpeg

                return _cut(decode_jpeg(data, strict=True), choose)
            # A crop decode does not look at what lies below the crop, so a file without its end is decoded whole.
            complete = data.rfind(b"\xff\xd9", -64) >= 0
            if choose is None or not complete:
                return _cut(self._turbo.decode(data, None, frame.mcu_width), choose)
            return self._turbo.decode(data, choose(frame.width, frame.height), frame.mcu_width)
        except ValueError as error:
            raise BadImage(str(error)) from None


def choose(name: str = "auto") -> Decoder:
    """The decoder called `name`; ``auto`` takes the first that is installed of turbo, simplejpeg and pil.

    Raises:
        ValueError: it is unknown or not installed; the text says what to install.
    """
    if name not in NAMES:
        raise ValueError(f"unknown decoder '{name}'; known: {', '.join(NAMES)}")
    if name == "turbo" and library() is None:
        raise ValueError(
            "data.decoder=turbo needs libjpeg-turbo of version 3 or later (conda install libjpeg-turbo, "
            "brew install jpeg-turbo, `make turbojpeg`); data.decoder=auto does without"
        )
    if name == "simplejpeg" and not _has_simplejpeg():
        raise ValueError("data.decoder=simplejpeg needs the package: pip install simplejpeg")
    if name == "auto":
        name = "turbo" if library() is not None else "simplejpeg" if _has_simplejpeg() else "pil"
    return Decoder(name)


class Frame(NamedTuple):
    """What a JPEG's start-of-frame segment says: the marker's second byte, sizes in pixels, bits a sample."""

    kind: int
    bits: int
    height: int
    width: int
    components: int
    mcu_width: int


def read_frame(data: bytes) -> Frame | None:
    """The frame header of a JPEG (ITU-T T.81, B.2.2); None where there is none."""
    if data[:2] != b"\xff\xd8":
        return None
    at, end = 2, len(data) - 10
    while at < end:
        if data[at] != 0xFF:
            return None
        kind = data[at + 1]
        if kind == 0xFF:  # padding
            at += 1
        elif kind in _STANDALONE:
            at += 2
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            components = data[at + 9]
            factors = data[at + 11 : at + 10 + 3 * components : 3]
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            mcu_width = 8 * max((factor >> 4 for factor in factors), default=1)
            return Frame(kind, data[at + 4], height, width, components, mcu_width)
        elif kind == 0xDA:  # a scan before any frame
            return None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _suits_turbo(frame: Frame) -> bool:
    known = frame.kind in _TURBO_FRAMES and frame.bits == 8 and frame.components in (1, 3)
    return known and 0 < frame.width * frame.height <= _TURBO_PIXELS


def _cut(pixels: np.ndarray, choose: Callable[[int, int], Box] | None) -> np.ndarray:
    if choose is None:
        return pixels
    x, y, width, height = choose(pixels.shape[1], pixels.shape[0])
    return pixels[y : y + height, x : x + width]


def _decode_with_pil(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=_PIL_FORMATS) as image:
            return np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise whatever their parsing meets
        raise BadImage(_plain(error)) from None


def _plain(error: Exception) -> str:
    """PIL's message without the address of the buffer that it read from."""
    text = str(error).split(" <_io.BytesIO", maxsplit=1)[0]
    return text or type(error).__name__


def _has_simplejpeg() -> bool:
    try:
        import simplejpeg  # noqa: F401
    except ImportError:
        return False
    return True
