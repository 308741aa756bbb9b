"""Decoding images, with the fastest decoder that the image and the installed libraries allow."""

import re
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from fvit.data.formats import pillow, turbo
from fvit.data.images import BadImage

Box = tuple[int, int, int, int]
"""x, y, width and height of a part of an image, in pixels."""

NAMES = ("auto", "turbo", "simplejpeg", "pil")

# Baseline, extended and progressive Huffman coding, which every build of libjpeg-turbo decodes alike.
_TURBO_FRAMES = (0xC0, 0xC1, 0xC2)
# PIL rejects headers that claim more than 1.8e8 pixels before it allocates memory for them.
_TURBO_PIXELS = 1e8
# libjpeg's warnings of missing and corrupt pixels. It also warns of an unknown JFIF revision and of bytes before a
# marker, which mean damage if a restart marker before it is missing.
_DAMAGE = re.compile(r"bad Huffman code|premature end of data segment|instead of RST")
_BEFORE_RESTART = re.compile(r"before marker 0xd[0-7]")
_JFIF_REVISION = re.compile(rb"(?<=JFIF\0)..", re.DOTALL)
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))


class Decoder:
    """Decodes an image, or a crop of it; damage that libjpeg or PIL notice is an error.

    ``turbo`` (libjpeg-turbo ≥ 3) decodes only the crop, ``simplejpeg`` and ``pil`` the full image. The first two are
    for JPEGs with one or three components; all else (CMYK, arithmetic coding, a PNG called .JPEG, …) goes to PIL. EXIF
    orientation is ignored, as in torchvision's ImageFolder.

    All accept the same files, except that damage below a crop escapes ``turbo``. As PIL ignores libjpeg's warnings,
    ``pil`` has simplejpeg decode a JPEG as well, if it is installed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._notices_damage = name == "turbo" or find_spec("simplejpeg") is not None

    def __call__(self, data: bytes | np.ndarray, choose: Callable[[int, int], Box] | None = None) -> np.ndarray:
        """Pixels uint8 [height, width, 3] of an encoded image, or of pixels uint8 [H, W] or [H, W, 3].

        `choose` maps the image's width and height to the crop, and is called once.
        """
        if isinstance(data, np.ndarray):
            return _crop(data if data.ndim == 3 else np.repeat(data[..., None], 3, axis=2), choose)
        frame = read_frame(data)
        if frame is None or not (frame.suits_turbo and self._notices_damage):
            return _crop(pillow.decode(data), choose)
        # A crop decode ignores what is below the crop, so a file without an end marker is decoded in full.
        if self.name == "turbo" and choose is not None and data.rfind(b"\xff\xd9", -64) >= 0:
            box = choose(frame.width, frame.height)
            try:
                return turbo.decode(data, box, frame.mcu_width)
            except ValueError:  # a full decode tells whether it matters
                return _crop(self._decode(data, frame), lambda *_: box)
        return _crop(self._decode(data, frame), choose)

    def _decode(self, data: bytes, frame: "Frame") -> np.ndarray:
        """A JPEG that libjpeg decodes without a warning or, unless the warning is of damage, PIL without an error."""
        try:
            pixels = self._decode_strictly(data, frame)
        except ValueError as error:
            if "JFIF revision" in str(error) and (usual := _JFIF_REVISION.sub(b"\1\1", data)) != data:
                return self._decode(usual, frame)
            lost = _BEFORE_RESTART.search(str(error)) and not _has_all_restarts(data)
            if lost or _DAMAGE.search(str(error)):
                raise BadImage(str(error)) from None
            return pillow.decode(data)
        if self.name == "pil":
            with suppress(BadImage):  # because of a header that is of no importance to libjpeg
                return pillow.decode(data)
        return pixels

    def _decode_strictly(self, data: bytes, frame: "Frame") -> np.ndarray:
        """Raises libjpeg's first warning as a ValueError."""
        if self.name == "turbo":
            return turbo.decode(data, None, frame.mcu_width)
        from simplejpeg import decode_jpeg

        return decode_jpeg(data, strict=True)


def choose(name: str = "auto") -> Decoder:
    """The decoder called `name`; ``auto`` is the first of turbo, simplejpeg and pil that is installed."""
    if name not in NAMES:
        raise ValueError(f"data.decoder={name} must be one of {', '.join(NAMES)}")
    has_turbo, has_simplejpeg = turbo.library() is not None, find_spec("simplejpeg") is not None
    if name == "turbo" and not has_turbo:
        raise ValueError(
            "data.decoder=turbo needs libjpeg-turbo 3 or later (conda install libjpeg-turbo, "
            "brew install jpeg-turbo, `make turbojpeg`); data.decoder=auto does without"
        )
    if name == "simplejpeg" and not has_simplejpeg:
        raise ValueError("data.decoder=simplejpeg needs the package: pip install simplejpeg")
    if name == "auto":
        name = "turbo" if has_turbo else "simplejpeg" if has_simplejpeg else "pil"
    return Decoder(name)


class Frame(NamedTuple):
    """A JPEG's start-of-frame segment: the marker's second byte, bits per sample, sizes in pixels."""

    kind: int
    bits: int
    height: int
    width: int
    components: int
    mcu_width: int

    @property
    def suits_turbo(self) -> bool:
        supported = self.kind in _TURBO_FRAMES and self.bits == 8 and self.components in (1, 3)
        return supported and 0 < self.width * self.height <= _TURBO_PIXELS


def read_frame(data: bytes) -> Frame | None:
    """The frame header of a JPEG (ITU-T T.81, B.2.2), if there is one."""
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
        elif kind == 0xDA:  # a scan without a frame
            return None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _has_all_restarts(data: bytes) -> bool:
    """Whether the restart markers of each scan of a JPEG count from 0 to 7, over and over, with none left out."""
    scans = (re.findall(rb"\xff([\xd0-\xd7])", scan) for scan in data.split(b"\xff\xda")[1:])
    return all(marker[0] & 7 == place % 8 for scan in scans for place, marker in enumerate(scan))


def _crop(pixels: np.ndarray, choose: Callable[[int, int], Box] | None) -> np.ndarray:
    if choose is None:
        return pixels
    x, y, width, height = choose(pixels.shape[1], pixels.shape[0])
    return pixels[y : y + height, x : x + width]
