"""Average pooling (PoolFormer): each patch becomes the mean of its neighbourhood minus itself.

Source: Yu et al., "MetaFormer Is Actually What You Need for Vision", arXiv:2111.11418 (PoolFormer).

    out = avgpool3×3(x) − x

Cost: O(9·N·D), no projections. Cells outside the grid and hidden patches are left out of the mean. Prefix tokens are
their own mean, so their output is 0. There are no heads and no attention map, so `num_heads` and `attn_drop` have no
effect.

Family: convolution.
"""

import torch.nn.functional as F
from torch import Tensor

from fvit.attention.base import Mechanism
from fvit.attention.ops import divide
from fvit.attention.registry import register


@register("pool")
class PoolMixer(Mechanism):
    """PoolFormer's pooling. Arguments as for `Mechanism`."""

    needs_grid = True
    reaches_prefix = False

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        patches, factor_bn1 = self.to_grid(x), self.mask_factor(attn_mask, x)
        if factor_bn1 is None:
            means = _mean_of_neighbours(patches)
        else:
            presence = self.to_grid(factor_bn1)
            means = divide(_mean_of_neighbours(patches * presence), _mean_of_neighbours(presence))
        return self.proj_drop(self.from_grid(means - patches))


def _mean_of_neighbours(grid: Tensor) -> Tensor:
    """The mean over the 3×3 cells around each cell of [B, C, rows, columns] that lie on the grid."""
    return F.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)
