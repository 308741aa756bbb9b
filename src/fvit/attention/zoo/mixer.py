"""MLP-Mixer's token mixing: one MLP over the tokens, the same for every channel.

Source: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", arXiv:2105.01601, equation 1, first half.

    out = W₂ GELU(W₁ x + b₁) + b₂,      W₁ [S, N] and W₂ [N, S] act on each channel's column of x [N, D]

Cost: O(N·S·D), no other projections. The norm before it, the residual and the MLP over channels are the host's. There
are no heads, no attention map and no projection of channels, so that `num_heads`, `qkv_bias` and `attn_drop` change
nothing. A mask of b weighs a token's column of W₁ by exp(b).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.registry import register


@register("mixer")
class Mixer(FixedLength):
    """MLP-Mixer's token mixing. Arguments as for `Mechanism`, and:

    Args:
        mlp_ratio: hidden width S in widths D of the tokens; the paper's is 0.5.

    Raises:
        ValueError: `mlp_ratio` leaves no hidden width; the tokens are not those of the layout; a mask between pairs of
            tokens, or causality, is asked for.
    """

    token_axes: ClassVar = {"fc1.weight": (1,), "fc2.weight": (0,), "fc2.bias": (0,)}
    summed_axes: ClassVar = {"fc1.weight": (1,)}

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        mlp_ratio: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, **host)
        self.refuse_host_options(**host)
        hidden = int(dim * mlp_ratio)
        if hidden < 1:
            raise ValueError(f"mixer: mlp_ratio={mlp_ratio} of width {dim} leaves nothing; take 0.5, the paper's")
        factory = dict(device=device, dtype=dtype)
        self.fc1 = nn.Linear(1, hidden, **factory)
        self.fc2 = nn.Linear(hidden, 1, **factory)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        self.check_length(x)
        columns_bcn = x.transpose(1, 2)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            columns_bcn = columns_bcn * bias.exp()
        return self.proj_drop(self.fc2(F.gelu(self.fc1(columns_bcn))).transpose(1, 2))
