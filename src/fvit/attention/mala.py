"""Magnitude-aware linear attention: the length of a query, which linear attention divides out, counts again.

Source: Fan et al., "Rectifying Magnitude Neglect in Linear Attention", arXiv:2507.00698 (MALA).

    out_n = β_n φ(q_n) Σ_m φ(k_m)ᵀ v_m − γ_n Σ_m v_m
    β_n = 1 + 1/z_n,      γ_n = z_n / N,      z_n = φ(q_n) Σ_m φ(k_m),      φ = elu + 1

so that the scores of a query sum to 1; evaluated as linear attention plus the covariance of keys and values that the
query asks for:

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / z_n + φ(q_n) Σ_m (φ(k_m) − mean φ(k))ᵀ v_m

Cost: O(N·D·d) besides the four projections. As in the published code every product φ(q)φ(k) carries a factor
1/(N √d), without which z would grow with N. That code's rotary positions, gate and convolution are left out.
"""

import torch.nn.functional as F
from torch import Tensor

from fvit.attention.ops import associate, divide
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("mala")
class Mala(Projected):
    """MALA's attention. Arguments as for `Projected`; `attn_drop` falls on φ(k).

    Raises:
        ValueError: a mask between pairs of tokens, or causality, is asked for.
    """

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q, k, v [B, H, N, d] to [B, H, N, d]."""
        q, k = F.elu(q) + 1, self.attn_drop(F.elu(k) + 1)
        # 1/N for each token, or what a softmax over the tokens that take part makes of it.
        share_b11n = (q.new_zeros(1, 1, q.shape[-2]) if bias is None else bias).softmax(dim=-1).unsqueeze(1)
        mean_k = share_b11n @ k
        weighted_v = share_b11n.transpose(-2, -1) * v
        # The factor 1/√d cancels in the quotient and stays in the rest.
        linear = divide(associate(q, k, weighted_v), q @ mean_k.mT)
        rest = associate(q, k - mean_k, weighted_v) * self.scale
        return linear + rest
