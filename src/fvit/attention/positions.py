"""Positions inside a mechanism: a learned vector per token, and rotary embeddings by row and column."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.ops import Size, rows_and_columns


class PositionEmbedding(FixedLength):
    """Adds a learned vector to each token; sized, resampled and loaded as any weight of `FixedLength`.

    A part of a mechanism, which passes on its layout and declares `fixed_length` itself.

    Args:
        dim: width C of the tokens.
        factory: device and dtype of the parameters.
    """

    token_axes: ClassVar = {"table": (0,)}

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__(dim, num_heads=1, **factory)
        self.table = nn.Parameter(torch.empty(1, dim, **factory))

    def init_weights(self) -> None:
        nn.init.zeros_(self.table)

    def forward(self, x: Tensor) -> Tensor:
        self.check_length(x)
        return x + self.table


def rotate_patches(
    x: Tensor, grid_size: Size | None, num_prefix_tokens: int, inclusive: bool = True, base: float = 10000.0
) -> Tensor:
    """Rotary position embedding on a grid: rotate pairs of neighbouring channels of x [B, H, N, d].

    Source: Su et al., "RoFormer", arXiv:2104.09864; by row and column as in Fan et al., arXiv:2507.00698 (MALA), and
    Han et al., arXiv:2405.16605 (MILA).

    The pairs in the first half of the channels rotate by the patch's row, the others by its column. Pair i = 0, 1, … of
    the d/4 in each half rotates per row or column by base^(−i / (d/4 − 1)), down to 1/base (`inclusive`, MALA), or by
    base^(−i / (d/4)) (RoFormer, MILA). Prefix tokens are not rotated.

    Raises:
        ValueError: the number of tokens does not match the layout.
    """
    rows, columns = rows_and_columns("a rotation of patches", x.shape[-2], grid_size, num_prefix_tokens)
    # In float32 at least, since bfloat16 cannot represent large positions.
    factory = dict(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    pairs = x.shape[-1] // 4
    speed = base ** -torch.linspace(0, 1, pairs if inclusive else pairs + 1, **factory)[:pairs]
    by_row = (torch.arange(rows, **factory)[:, None, None] * speed).expand(rows, columns, -1)
    by_column = (torch.arange(columns, **factory)[:, None] * speed).expand(rows, columns, -1)
    angle = F.pad(torch.cat([by_row, by_column], dim=-1).flatten(0, 1), (0, 0, num_prefix_tokens, 0))
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.unflatten(-1, (-1, 2)).unbind(dim=-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
