"""MLLA, the linear attention of MILA: elu + 1 features, with rotary positions in the numerator.

Source: Han et al., "Demystify Mamba in Vision: A Linear Attention Perspective", arXiv:2405.16605 (MILA, at first MLLA).

    out_n = W_o ((R_n φ(q_n) · Σ_m R_m φ(k_m)ᵀ v_m / (φ(q_n) Σ_m φ(k_m)) [+ LePE(v)_n]) [⊙ SiLU(W_g x_n + b_g)])
    φ = elu + 1      R: channels 2j and 2j + 1 of all C rotated by the angle 10000^(−4j'/C) · row or column

As in the authors' code R spans the channels of all heads: the first half by row, with j' = j, the second by column,
with j' = j − C/4. The denominator is not rotated, since rotated features may be negative. Prefix tokens are not
rotated. LePE is a depth-wise w×w convolution with bias over the patches, without the prefix tokens; a hidden patch is
zero to it, like the border.

MILA's blocks have more: a convolution with SiLU before the attention, whose values are that input itself, not a
projection of it, and convolutions around the attention.

Cost: O(N·D·d) besides the four projections; LePE adds O(N·D·w²), and the gate one more projection.

Family: linear.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import cast_once, kernel_average
from fvit.attention.positions import Rotary
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("mlla")
class MLLA(Projected):
    """MILA's linear attention. Other arguments as for `Projected`; `attn_drop` applies to φ(k).

    Args:
        gate: multiply the output by SiLU(W_g x + b_g) before the output projection.

    Raises:
        ValueError: `dim` is not a multiple of 4.
    """

    needs_grid = True
    adds_conv = True

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, *, gate: bool = False, **shared: Any
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        if dim % 4:
            raise ValueError(f"mlla: width {dim} must be a multiple of 4, for pairs of channels by row and by column")
        self.rotary = Rotary("mlla", dim, inclusive=False, **self.factory)
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **self.factory) if gate else None

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        factor_bn1 = self.mask_factor(attn_mask, x)
        x = cast_once(x)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        q_bnc, k_bnc = F.elu(q_bnc) + 1, F.elu(k_bnc) + 1
        if factor_bn1 is not None:
            k_bnc = k_bnc * factor_bn1
        q, k, v = (self.split_heads(t) for t in (q_bnc, self.attn_drop(k_bnc), v_bnc))
        out = self.merge_heads(self.add_conv(kernel_average(q, k, v, self._rotate), v, attn_mask))
        if self.gate is not None:
            out = out * F.silu(self.gate(x))
        return self.proj_drop(self.proj(out))

    def _rotate(self, x_bhnd: Tensor) -> Tensor:
        """R x, over the channels of all heads, [B, H, N, d] -> [B, H, N, d]."""
        return self.split_heads(self.rotary(self.merge_heads(x_bhnd)))
