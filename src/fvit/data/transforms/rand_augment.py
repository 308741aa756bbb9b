"""timm's RandAugment on PIL images, with one operation fixed and its shears and translations made five times faster.

RandAugment spends most of its time in PIL's affine transform, which interpolates over 4×4 pixels in double precision. A
shear or translation along one axis only needs four pixels of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.auto_augment import NAME_TO_OP

# PIL truncates sums in double precision. In single precision, a sum may be slightly below a whole number.
_ROUNDING = 1e-4


def install() -> None:
    """Replace the operations in timm's table."""
    NAME_TO_OP.update({name: posterize for name in NAME_TO_OP if name.startswith("Posterize")})
    NAME_TO_OP.update({name: FastOperation(name) for name in _FAST})


def posterize(image: Image.Image, bits_to_keep: int, **options: object) -> Image.Image:
    """Keep the highest bits of each channel; 0 bits give black.

    timm 1.0.31 asks Pillow for 0 bits at RandAugment's largest magnitude. Pillow 13 rejects this, so rand-m9-mstd0.5
    would fail within the first thousand images; older versions return black.
    """
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return image if bits_to_keep >= 8 else ImageOps.posterize(image, bits_to_keep)


@dataclass
class FastOperation:
    """timm's operation `name`, fast for RGB images with bicubic interpolation; can be sent to a spawned worker."""

    name: str

    def __call__(self, image: Image.Image, magnitude: float, **options: Any) -> Image.Image:
        if options.get("resample") != Image.Resampling.BICUBIC or image.mode != "RGB" or "fillcolor" not in options:
            return _ORIGINALS[self.name](image, magnitude, **options)
        return _FAST[self.name](image, magnitude, options["fillcolor"])


def transform_rows(image: Image.Image, slope: float, offset: float, fill: tuple[int, ...]) -> Image.Image:
    """``image.transform(image.size, AFFINE, (1, slope, offset, 0, 1, 0), BICUBIC, fillcolor=fill)``.

    In single precision, two values in 1,000 differ from PIL's by one grey level.
    """
    pixels = np.asarray(image)
    height, width, channels = pixels.shape
    padded, rows, values = _buffers(height, width, channels)
    # The interpolation extends two pixels beyond an edge, whose pixels are repeated.
    padded[:, 2:-2] = pixels
    padded[:, :2], padded[:, -2:] = pixels[:, :1], pixels[:, -1:]
    rows[:] = np.tile(np.array(fill, dtype=np.float32), width + 3).reshape(1, width + 3, channels)
    shifts = slope * (np.arange(height) + 0.5) + offset
    starts = np.floor(shifts).astype(np.int64)
    # Shift each row by whole pixels, so that the four neighbours are in the same columns in all rows.
    ends = [*(np.flatnonzero(np.diff(starts)) + 1).tolist(), height]
    for begin, end in zip([0, *ends], ends, strict=False):
        start = int(starts[begin])
        first, last = max(0, -start - 1), min(width, width - start)
        if first < last:
            rows[begin:end, first : last + 3] = padded[begin:end, first + start + 1 : last + start + 4]
    _interpolate(torch.from_numpy(rows), torch.from_numpy(shifts - starts), torch.from_numpy(values))
    out = np.empty((height, width, channels), dtype=np.uint8)
    np.copyto(out, values, casting="unsafe")
    # PIL fills every pixel whose centre comes from outside; here, some of them were blended with the edge.
    edges = np.stack([np.ceil(-0.5 - shifts) - 4, np.ceil(width - 0.5 - shifts)]).astype(np.int64)
    columns = edges.reshape(2, -1, 1) + np.arange(4)
    inside = (columns >= 0) & (columns < width)
    out[np.nonzero(inside)[1], columns[inside]] = fill
    return Image.fromarray(out)


def transform_columns(image: Image.Image, slope: float, offset: float, fill: tuple[int, ...]) -> Image.Image:
    """The same along columns, downwards."""
    transposed = transform_rows(image.transpose(Image.Transpose.TRANSPOSE), slope, offset, fill)
    return transposed.transpose(Image.Transpose.TRANSPOSE)


def _interpolate(rows: torch.Tensor, d: torch.Tensor, out: torch.Tensor) -> None:
    """PIL's cubic interpolation (a = -1) at `d` of each row between the second and third of four neighbours."""
    width = out.shape[1]
    weights = (d * (d * (2 - d) - 1), 1 + d * d * (d - 2), d * (1 + d * (1 - d)), d * d * (d - 1))
    first, *others = (weight.float().view(-1, 1, 1) for weight in weights)
    torch.mul(rows[:, :width], first, out=out)
    for shift, weight in enumerate(others, start=1):
        out.addcmul_(rows[:, shift : shift + width], weight)
    out.add_(_ROUNDING).clamp_(0, 255)


@lru_cache(2)
def _buffers(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reused buffers, whose allocation would take longer than the computation. Not safe with several threads."""
    padded, rows, values = (np.empty((height, width + extra, channels), dtype=np.float32) for extra in (4, 3, 0))
    return padded, rows, values


_ORIGINALS = dict(NAME_TO_OP)
_FAST: dict[str, Callable[[Image.Image, float, tuple[int, ...]], Image.Image]] = {
    "ShearX": lambda image, slope, fill: transform_rows(image, slope, 0.0, fill),
    "ShearY": lambda image, slope, fill: transform_columns(image, slope, 0.0, fill),
    "TranslateX": lambda image, pixels, fill: transform_rows(image, 0.0, pixels, fill),
    "TranslateY": lambda image, pixels, fill: transform_columns(image, 0.0, pixels, fill),
    "TranslateXRel": lambda image, share, fill: transform_rows(image, 0.0, share * image.width, fill),
    "TranslateYRel": lambda image, share, fill: transform_columns(image, 0.0, share * image.height, fill),
}
