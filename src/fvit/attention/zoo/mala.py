"""MALA, magnitude-aware linear attention: restores the influence of a query's norm, which linear attention cancels.

Source: Fan et al., "Rectifying Magnitude Neglect in Linear Attention", arXiv:2507.00698 (MALA).

    out_n = (β_n Σ_m s_nm v_m − γ_n Σ_m v_m [+ DWC(v)_n]) [⊙ (W_g x_n + b_g)],      s_nm = φ(q_n)·φ(k_m)
    β_n = 1 + 1/z_n,      γ_n = z_n / N,      z_n = Σ_m s_nm,      φ = elu + 1

so the scores of a query sum to 1. Without rotation this is linear attention plus the query's view of the covariance of
keys and values, and is evaluated as

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / z_n + φ(q_n) Σ_m (φ(k_m) − mean φ(k))ᵀ v_m

As in the authors' code every s has a factor 1/(N √d), without which z would grow with N. Their models rotate φ(q) and
φ(k) by position for the first sum, not for z; DWC is a depth-wise w×w convolution with bias over the patches; the gate
has no activation. Prefix tokens are neither rotated nor convolved, and a hidden patch is zero to DWC, like the border.

Cost: O(N·D·d) besides the four projections; DWC adds O(N·D·w²), the gate a fifth projection.

Family: linear.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import associate, cast_once, divide, token_shares
from fvit.attention.positions import Rotary
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("mala")
class MALA(Projected):
    """MALA's attention. Other arguments as for `Projected`; `attn_drop` applies to φ(k).

    Args:
        rotary: rotate the features by row and column; needs the grid and a d divisible by 4.
        gate: multiply by a projection of the input before the output projection.
    """

    adds_conv = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        rotary: bool = False,
        gate: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **self.factory) if gate else None
        self.rotary = Rotary("mala", self.head_dim, **self.factory) if rotary else None
        self.needs_grid = self.needs_grid or rotary

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        bias, x = self.key_bias(attn_mask, x), cast_once(x)
        q, k, v = self.heads(x)
        out = self.mix(q, k, v, bias)
        out = self.merge_heads(self.add_conv(out, v, attn_mask))
        if self.gate is not None:
            out = out * self.gate(x)
        return self.proj_drop(self.proj(out))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k = F.elu(q) + 1, self.attn_drop(F.elu(k) + 1)
        share_b11n = token_shares(bias, q).unsqueeze(1)
        mean_k = share_b11n @ k
        weighted_v = share_b11n.transpose(-2, -1) * v
        # The factor 1/√d cancels in the quotient and applies to the rest.
        z = q @ mean_k.mT
        if self.rotary is None:
            return divide(associate(q, k, weighted_v), z) + associate(q, k - mean_k, weighted_v) * self.scale
        scored = associate(self.rotary(q), self.rotary(k), weighted_v)
        return divide(scored, z) + (scored - z * (share_b11n @ v)) * self.scale
