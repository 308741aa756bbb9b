"""Shears and shifts of a PIL image along an axis, bicubic: PIL's own image in a fifth of its time.

RandAugment spends most of its time in PIL's affine transform, which interpolates over 4×4 pixels in double precision
whatever the matrix. A shear or a shift along an axis needs four pixels of one row.
"""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image

# PIL computes in double precision and cuts. In single precision a sum may fall short of the whole number that it is.
_ROUNDING = 1e-4


def transform_rows(image: Image.Image, slope: float, offset: float, fill: tuple[int, ...]) -> Image.Image:
    """``image.transform(image.size, AFFINE, (1, slope, offset, 0, 1, 0), BICUBIC, fillcolor=fill)``.

    In single precision: two values in 1,000 differ from PIL's, by one grey level.

    Args:
        image: RGB.
        slope: pixels to the right that the source moves a row.
        offset: pixels to the right that the source moves altogether.
        fill: the colour where there is no source.
    """
    pixels = np.asarray(image)
    height, width, channels = pixels.shape
    padded, rows, values = _scratch(height, width, channels)
    # Two pixels beyond an edge, which the interpolation reaches, repeat it.
    padded[:, 2:-2] = pixels
    padded[:, :2], padded[:, -2:] = pixels[:, :1], pixels[:, -1:]
    rows[:] = np.tile(np.array(fill, dtype=np.float32), width + 3).reshape(1, width + 3, channels)
    shifts = slope * (np.arange(height) + 0.5) + offset
    starts = np.floor(shifts).astype(np.int64)
    # Each row is taken where its source begins, so that the four neighbours stand in the same columns of all rows.
    ends = [*(np.flatnonzero(np.diff(starts)) + 1).tolist(), height]
    for begin, end in zip([0, *ends], ends, strict=False):
        start = int(starts[begin])
        first, last = max(0, -start - 1), min(width, width - start)
        if first < last:
            rows[begin:end, first : last + 3] = padded[begin:end, first + start + 1 : last + start + 4]
    _interpolate(torch.from_numpy(rows), torch.from_numpy(shifts - starts), torch.from_numpy(values))
    out = np.empty((height, width, channels), dtype=np.uint8)
    np.copyto(out, values, casting="unsafe")
    # PIL fills where the middle of a pixel comes from without. Here some pixels beside an edge are blended with it.
    edges = np.stack([np.ceil(-0.5 - shifts) - 4, np.ceil(width - 0.5 - shifts)]).astype(np.int64)
    columns = edges.reshape(2, -1, 1) + np.arange(4)
    beside = (columns >= 0) & (columns < width)
    out[np.nonzero(beside)[1], columns[beside]] = fill
    return Image.fromarray(out)


def transform_columns(image: Image.Image, slope: float, offset: float, fill: tuple[int, ...]) -> Image.Image:
    """As `transform_rows`, downwards."""
    turned = transform_rows(image.transpose(Image.Transpose.TRANSPOSE), slope, offset, fill)
    return turned.transpose(Image.Transpose.TRANSPOSE)


def _interpolate(rows: torch.Tensor, d: torch.Tensor, out: torch.Tensor) -> None:
    """Between the second and the third of four neighbours in a row, at `d` of each row, with PIL's cubic (a = -1)."""
    width = out.shape[1]
    weights = (d * (d * (2 - d) - 1), 1 + d * d * (d - 2), d * (1 + d * (1 - d)), d * d * (d - 1))
    first, *others = (weight.float().view(-1, 1, 1) for weight in weights)
    torch.mul(rows[:, :width], first, out=out)
    for place, weight in enumerate(others, start=1):
        out.addcmul_(rows[:, place : place + width], weight)
    out.add_(_ROUNDING).clamp_(0, 255)


@lru_cache(2)
def _scratch(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Memory for the steps: to ask the system for it anew would cost more than they do. One thread uses it."""
    shapes = ((height, width + beyond, channels) for beyond in (4, 3, 0))
    padded, rows, values = (np.empty(shape, dtype=np.float32) for shape in shapes)
    return padded, rows, values
