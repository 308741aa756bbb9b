"""Separable convolution (ConvFormer): the inverted bottleneck of MobileNetV2 as a token mixer.

Source: Yu et al., "MetaFormer Baselines for Vision", arXiv:2210.13452 (ConvFormer).

    out = W₂ (DWC_w×w(StarReLU(W₁ x + b₁)) + b) + b₂,      StarReLU(x) = s · ReLU(x)² + t

W₁ widens the tokens by `expansion`; s and t are two learned numbers that start as 1 and 0, as in the authors' code.
Their models have no biases; here `qkv_bias` is that of W₁, of the convolution and of W₂. Prefix tokens take no part:
they become the bias of W₂. A hidden patch is zero to the convolution, like the border. There are no heads and no
attention map, so `num_heads` and `attn_drop` have no effect.

Cost: O(N·D·e·w²) for an expansion of e, besides two projections, the size of softmax attention's four for e = 2.

Family: convolution.

Code: sail-sg/metaformer (Apache-2.0).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import convolve_patches, depthwise
from fvit.attention.registry import register


@register("sep_conv")
class SeparableConvolution(Mechanism):
    """ConvFormer's token mixer. Other arguments as for `Mechanism`.

    Args:
        kernel: width w of the depth-wise convolution, odd.
        expansion: width of the hidden layer relative to `dim`, at least 1.
    """

    needs_grid = True
    reaches_prefix = False

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        kernel: int = 7,
        expansion: int = 2,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        if kernel < 1 or expansion < 1:
            raise ValueError(f"sep_conv: kernel={kernel} and expansion={expansion} must be at least 1")
        width = expansion * dim
        self.expand = nn.Linear(dim, width, bias=qkv_bias, **self.factory)
        self.star = nn.Parameter(torch.empty(2, **self.factory))
        self.conv = depthwise("sep_conv: kernel", width, kernel, bias=qkv_bias, **self.factory)
        self.reduce = nn.Linear(width, dim, bias=qkv_bias, **self.factory)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        self.star.copy_(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        factor_bn1 = self.mask_factor(attn_mask, x)
        hidden = self.star[0] * F.relu(self.expand(x)).square() + self.star[1]
        if factor_bn1 is not None:
            hidden = hidden * factor_bn1
        return self.proj_drop(self.reduce(convolve_patches(self.conv, hidden, self.grid_size, self.num_prefix_tokens)))
