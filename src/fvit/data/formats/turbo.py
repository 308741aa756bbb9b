"""libjpeg-turbo 3 through ctypes: the only decoder that can skip what is outside a crop.

simplejpeg's wheel contains libjpeg-turbo 3 as well, but exposes neither the crop decode nor the library's symbols.
"""

import ctypes
import ctypes.util
import sys
from functools import cache
from pathlib import Path

import numpy as np

# From turbojpeg.h, version 3.
_DECOMPRESS = 1
_STOP_ON_WARNING, _SUBSAMPLING, _WIDTH, _HEIGHT = 0, 4, 5, 6
_RGB = 0


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "width", "height")]


_POINTER, _INT, _BYTES, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
_SIGNATURES = {
    "tj3Init": ([_INT], _POINTER),
    "tj3Destroy": ([_POINTER], None),
    "tj3Set": ([_POINTER, _INT, _INT], _INT),
    "tj3Get": ([_POINTER, _INT], _INT),
    "tj3DecompressHeader": ([_POINTER, _BYTES, _SIZE], _INT),
    "tj3SetCroppingRegion": ([_POINTER, _Region], _INT),
    "tj3Decompress8": ([_POINTER, _BYTES, _SIZE, _POINTER, _INT, _INT], _INT),
    "tj3GetErrorStr": ([_POINTER], _BYTES),
}


@cache
def library() -> ctypes.CDLL | None:
    """The first libturbojpeg ≥ 3 found in this environment (conda), the system, or Homebrew."""
    name = "libturbojpeg.dylib" if sys.platform == "darwin" else "libturbojpeg.so.0"
    folders = [Path(sys.prefix, "lib"), Path("/opt/homebrew/opt/jpeg-turbo/lib"), Path("/usr/local/opt/jpeg-turbo/lib")]
    candidates = [str(folder / name) for folder in folders if (folder / name).is_file()]
    candidates.insert(1, ctypes.util.find_library("turbojpeg"))
    for candidate in filter(None, candidates):
        try:
            found = ctypes.CDLL(candidate)
            for function, (arguments, result) in _SIGNATURES.items():
                getattr(found, function).argtypes = arguments
                getattr(found, function).restype = result
        except (OSError, AttributeError):  # for another machine, or version 2, which lacks these functions
            continue
        return found
    return None


def decode(data: bytes, box: tuple[int, int, int, int] | None, mcu_width: int) -> np.ndarray:
    """Pixels uint8 [height, width, 3] of a crop of a JPEG, bit-identical to those of a full decode.

    Args:
        data: a JPEG with one or three components of 8 bits.
        box: x, y, width, height in pixels; None for the full image.
        mcu_width: width of the file's minimum coded unit in pixels, the grid on which a decode can start.

    Raises:
        ValueError: the library's first error or warning.
    """
    tj = library()
    # A decompressor takes 2 µs to create. It would keep an image's tables, and decode with them one that lacks its own.
    handle = tj.tj3Init(_DECOMPRESS)
    try:
        tj.tj3Set(handle, _STOP_ON_WARNING, 1)
        return _decode(tj, handle, data, box, mcu_width)
    finally:
        tj.tj3Destroy(handle)


def _decode(
    tj: ctypes.CDLL, handle: int, data: bytes, box: tuple[int, int, int, int] | None, mcu_width: int
) -> np.ndarray:
    def check(failed: int) -> None:
        if failed:
            raise ValueError(tj.tj3GetErrorStr(handle).decode(errors="replace"))

    check(tj.tj3DecompressHeader(handle, data, len(data)))
    width, height = tj.tj3Get(handle, _WIDTH), tj.tj3Get(handle, _HEIGHT)
    left, top, right, bottom = 0, 0, width, height
    # The library cannot crop files whose subsampling it has no name for.
    if box is not None and tj.tj3Get(handle, _SUBSAMPLING) >= 0:
        # Chroma is interpolated between neighbours, so the crop needs a margin to be exact.
        x, y, box_width, box_height = box
        left = max(0, (x // mcu_width - 1) * mcu_width)
        right = min(width, x + box_width + mcu_width)
        top, bottom = max(0, y - 2), min(height, y + box_height + 2)
    check(tj.tj3SetCroppingRegion(handle, _Region(left, top, right - left, bottom - top)))
    pixels = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
    check(tj.tj3Decompress8(handle, data, len(data), pixels.ctypes.data, pixels.strides[0], _RGB))
    if box is None:
        return pixels
    return pixels[y - top : y - top + box_height, x - left : x - left + box_width]
