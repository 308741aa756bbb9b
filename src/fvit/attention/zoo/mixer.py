"""MLP-Mixer's token mixing: an MLP over the tokens, shared by all channels.

Source: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", arXiv:2105.01601, equation 1, first half.

    out = W₂ GELU(W₁ x + b₁) + b₂,      W₁ [S, N] and W₂ [N, S] act on each channel's column of x [N, D]

Cost: O(N·S·D), no other projections. The norm before it, the residual and the channel MLP belong to the host. There are
no heads, no attention map and no channel projections, so `num_heads`, `qkv_bias` and `attn_drop` have no effect. A mask
of b multiplies a token's column of W₁ by exp(b).

Family: MLP.
"""

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.registry import register


@register("mixer")
class TokenMixingMLP(FixedLength):
    """MLP-Mixer's token mixing. Other arguments as for `Mechanism`.

    Args:
        mlp_ratio: hidden width S, relative to the tokens' width D; 0.5 in the paper.
    """

    token_axes: ClassVar = {"fc1.weight": (1,), "fc2.weight": (0,), "fc2.bias": (0,)}
    summed_axes: ClassVar = {"fc1.weight": (1,)}

    def __init__(self, dim: int, num_heads: int = 8, *, mlp_ratio: float = 0.5, **shared: Any) -> None:
        super().__init__(dim, num_heads, **shared)
        hidden = int(dim * mlp_ratio)
        if hidden < 1:
            raise ValueError(f"mixer: mlp_ratio={mlp_ratio} of width {dim} gives no hidden units; the paper uses 0.5")
        self.fc1 = nn.Linear(1, hidden, **self.factory)
        self.fc2 = nn.Linear(hidden, 1, **self.factory)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        self.check_length(x)
        columns_bcn = x.transpose(1, 2)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            columns_bcn = columns_bcn * bias.exp()
        return self.proj_drop(self.fc2(F.gelu(self.fc1(columns_bcn))).transpose(1, 2))
