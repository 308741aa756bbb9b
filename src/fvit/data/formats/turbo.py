"""libjpeg-turbo 3 through ctypes: the one decoder that can leave out what lies outside a crop.

simplejpeg's wheel carries libjpeg-turbo 3 too, but neither its crop decode nor the library's symbols.
"""

import ctypes
import ctypes.util
import sys
from functools import cache
from pathlib import Path

import numpy as np

# turbojpeg.h, version 3.
_DECOMPRESS = 1
_STOP_ON_WARNING, _SUBSAMPLING, _WIDTH, _HEIGHT = 0, 4, 5, 6
_RGB = 0


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "width", "height")]


_SIGNATURES = {
    "tj3Init": ([ctypes.c_int], ctypes.c_void_p),
    "tj3Destroy": ([ctypes.c_void_p], None),
    "tj3Set": ([ctypes.c_void_p, ctypes.c_int, ctypes.c_int], ctypes.c_int),
    "tj3Get": ([ctypes.c_void_p, ctypes.c_int], ctypes.c_int),
    "tj3DecompressHeader": ([ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t], ctypes.c_int),
    "tj3SetCroppingRegion": ([ctypes.c_void_p, _Region], ctypes.c_int),
    "tj3Decompress8": (
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_int],
        ctypes.c_int,
    ),
    "tj3GetErrorStr": ([ctypes.c_void_p], ctypes.c_char_p),
}


@cache
def library() -> ctypes.CDLL | None:
    """The first libturbojpeg of version 3 or later: of the environment (conda), of the system, of Homebrew."""
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
        except (OSError, AttributeError):  # of another machine, or of version 2, which lacks these functions
            continue
        return found
    return None


class Turbo:
    """A decompressor. It keeps an image's header between calls, so each thread needs one of its own.

    Raises:
        OSError: no libjpeg-turbo of version 3 or later was found.
    """

    def __init__(self) -> None:
        found = library()
        if found is None:
            raise OSError("no libjpeg-turbo of version 3 or later was found")
        self._library = found
        self._open()

    def __reduce__(self) -> tuple:
        return Turbo, ()

    def decode(self, data: bytes, box: tuple[int, int, int, int] | None, mcu_width: int) -> np.ndarray:
        """Pixels uint8 [height, width, 3] of a box of a JPEG, bit by bit those of a full decode.

        Args:
            data: a JPEG of one or three components of 8 bits.
            box: x, y, width, height in pixels; None for all.
            mcu_width: of the file's minimum coded unit in pixels, the grid on which a decode may begin.

        Raises:
            ValueError: the library's reason.
        """
        tj, handle = self._library, self._handle
        if tj.tj3DecompressHeader(handle, data, len(data)):
            raise self._failure()
        width, height = tj.tj3Get(handle, _WIDTH), tj.tj3Get(handle, _HEIGHT)
        left, top, right, bottom = 0, 0, width, height
        # The library cannot begin within files whose subsampling it has no name for.
        if box is not None and tj.tj3Get(handle, _SUBSAMPLING) >= 0:
            # Chroma is upsampled from its neighbours, so a decode needs a margin to be exact within the box.
            x, y, box_width, box_height = box
            left = max(0, (x // mcu_width - 1) * mcu_width)
            right = min(width, x + box_width + mcu_width)
            top, bottom = max(0, y - 2), min(height, y + box_height + 2)
        if tj.tj3SetCroppingRegion(handle, _Region(left, top, right - left, bottom - top)):
            raise self._failure()
        pixels = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        if tj.tj3Decompress8(handle, data, len(data), pixels.ctypes.data, pixels.strides[0], _RGB):
            raise self._failure()
        if box is None:
            return pixels
        return pixels[y - top : y - top + box_height, x - left : x - left + box_width]

    def _open(self) -> None:
        self._handle = self._library.tj3Init(_DECOMPRESS)
        # A warning is damage: bytes missing, bytes that are no Huffman code.
        self._library.tj3Set(self._handle, _STOP_ON_WARNING, 1)

    def _failure(self) -> ValueError:
        """The last error. An error within a header would stay with the decompressor, so the next image gets another."""
        reason = self._library.tj3GetErrorStr(self._handle).decode(errors="replace")
        self._library.tj3Destroy(self._handle)
        self._open()
        return ValueError(reason)
