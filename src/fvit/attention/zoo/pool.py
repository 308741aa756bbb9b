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
        patches = self.to_grid(x)
        bias = self.key_bias(attn_mask, x)
        if bias is None:
            means = _mean_of_neighbours(patches)
        else:
            # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
            presence = self.to_grid(bias.exp().transpose(1, 2))
            means = divide(_mean_of_neighbours(patches * presence), _mean_of_neighbours(presence))
        return self.proj_drop(self.from_grid(means - patches))


def _mean_of_neighbours(grid: Tensor) -> Tensor:
    """The mean over the 3×3 cells around each cell of [B, C, rows, columns], as many of them as exist."""
    return F.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)
