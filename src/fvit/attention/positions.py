"""Positions inside a mechanism: a learned vector per token, and rotary embeddings by row and column."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.ops import Size, rows_and_columns
from fvit.attention.tables import LayoutTables


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


class Rotary(LayoutTables):
    """Rotary position embedding on a grid: rotates pairs of neighbouring channels of x [B, H, N, d].

    Source: Su et al., "RoFormer", arXiv:2104.09864; by row and column as in Fan et al., arXiv:2507.00698 (MALA), and
    Han et al., arXiv:2405.16605 (MILA).

    The pairs in the first half of the channels rotate by the patch's row, the others by its column. Pair i = 0, 1, … of
    the d/4 in each half rotates per row or column by base^(−i / (d/4 − 1)), down to 1/base (`inclusive`, MALA), or by
    base^(−i / (d/4)) (RoFormer, MILA). Prefix tokens are not rotated.

    Args:
        user: name of the mechanism, for messages.
        width: number d of channels.
        inclusive: see above.
        base: see above.
        factory: device and dtype of the parameters.

    Raises:
        ValueError: `width` is not a multiple of 4; in `forward`, the number of tokens does not match the layout.
    """

    def __init__(self, user: str, width: int, inclusive: bool = True, base: float = 10000.0, **factory: Any) -> None:
        super().__init__(**factory)
        if width % 4:
            raise ValueError(
                f"{user}: rotary needs head widths that are multiples of 4, got {width}; use num_heads such that "
                "dim / num_heads is a multiple of 4, or rotary=False"
            )
        self.width, self.inclusive, self.base = width, inclusive, base

    def tables(self, grid_size: Size, num_prefix_tokens: int, **factory: Any) -> dict[str, Tensor]:
        """Cosine and sine of each token's angles, [N, d/2]."""
        (rows, columns), pairs = grid_size, self.width // 4
        speed = self.base ** -torch.linspace(0, 1, pairs if self.inclusive else pairs + 1, **factory)[:pairs]
        by_row = (torch.arange(rows, **factory)[:, None, None] * speed).expand(rows, columns, -1)
        by_column = (torch.arange(columns, **factory)[:, None] * speed).expand(rows, columns, -1)
        angle = F.pad(torch.cat([by_row, by_column], dim=-1).flatten(0, 1), (0, 0, num_prefix_tokens, 0))
        return {"cos": angle.cos(), "sin": angle.sin()}

    def forward(self, x: Tensor) -> Tensor:
        rows_and_columns("a rotation of patches", x.shape[-2], self.grid_size, self.num_prefix_tokens)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        first, second = x.unflatten(-1, (-1, 2)).unbind(dim=-1)
        return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
