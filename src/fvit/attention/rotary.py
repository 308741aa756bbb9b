"""Rotary positions on a grid: pairs of channels are turned by angles that grow with row and column.

Source: Su et al., "RoFormer", arXiv:2104.09864; for rows and columns as in Fan et al., arXiv:2507.00698 (MALA), and
Han et al., arXiv:2405.16605 (MILA).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fvit.attention.base import Size
from fvit.attention.ops import rows_and_columns


def rotate_patches(x: Tensor, grid_size: Size | None, num_prefix_tokens: int, inclusive: bool = True) -> Tensor:
    """Turn the pairs of neighbouring channels of x [B, H, N, d]: those of the first half by row, the others by column.

    The i-th of the d/4 pairs of each half, from 0, turns by 10000^(−i / (d/4 − 1)) a row or column, so that the last
    one turns by 1/10000 (MALA); or, not `inclusive`, by 10000^(−i / (d/4)) (RoFormer, MILA). Prefix tokens, which have
    no place on the grid, stay.

    Raises:
        ValueError: the tokens are not `num_prefix_tokens` and then the patches of `grid_size`.
    """
    rows, columns = rows_and_columns("a rotation of patches", x.shape[-2], grid_size, num_prefix_tokens)
    # In float32 at least, since positions are large for bfloat16.
    factory = dict(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    pairs = x.shape[-1] // 4
    speed = 10000 ** -torch.linspace(0, 1, pairs if inclusive else pairs + 1, **factory)[:pairs]
    by_row = (torch.arange(rows, **factory)[:, None, None] * speed).expand(rows, columns, -1)
    by_column = (torch.arange(columns, **factory)[:, None] * speed).expand(rows, columns, -1)
    angle = F.pad(torch.cat([by_row, by_column], dim=-1).flatten(0, 1), (0, 0, num_prefix_tokens, 0))
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.unflatten(-1, (-1, 2)).unbind(dim=-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
