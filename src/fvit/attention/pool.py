"""Average pooling in place of attention: each patch becomes the mean of its neighbours, less itself.

Source: Yu et al., "MetaFormer Is Actually What You Need for Vision", arXiv:2111.11418 (PoolFormer).

    out = avgpool3×3(x) − x

Cost: O(9·N·D), no projections. What lies outside the grid is not counted in the mean, nor is a hidden patch. Prefix
tokens lie on no grid and stay as they are, which less themselves is 0. There are no heads and there is no attention
map, so that `num_heads` and `attn_drop` change nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import divide
from fvit.attention.registry import register


@register("pool")
class Pool(Mechanism):
    """PoolFormer's pooling. Arguments as for `Mechanism`.

    Raises:
        ValueError: the tokens do not fill the grid; a mask between pairs of tokens, or causality, is asked for.
    """

    needs_grid = True
    reaches_prefix = False

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, **host)
        self.refuse_host_options(**host)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        patches = self._grid(x)
        bias = self.key_bias(attn_mask, x)
        if bias is None:
            means = _mean_of_neighbours(patches)
        else:
            # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
            presence = self._grid(bias.exp().transpose(-2, -1))
            means = divide(_mean_of_neighbours(patches * presence), _mean_of_neighbours(presence))
        pooled = (means - patches).flatten(2).transpose(-2, -1)
        return self.proj_drop(F.pad(pooled, (0, 0, self.num_prefix_tokens, 0)))

    def _grid(self, x: Tensor) -> Tensor:
        """The patches in their rows and columns, [B, N, C] -> [B, C, rows, columns]."""
        rows, columns = self.grid_size or (0, 0)
        if x.shape[1] != self.num_prefix_tokens + rows * columns:
            raise ValueError(
                f"Pool got {x.shape[1]} tokens where set_layout told of {self.num_prefix_tokens} and a grid of "
                f"{rows}×{columns}; tell it the layout, or use attention=softmax where there is no grid"
            )
        return x[:, self.num_prefix_tokens :].transpose(-2, -1).unflatten(-1, (rows, columns))


def _mean_of_neighbours(grid: Tensor) -> Tensor:
    """The mean over the 3×3 cells around each cell of [B, C, rows, columns], as many of them as exist."""
    return F.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)
