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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import divide
from fvit.attention.registry import register


@register("mala")
class Mala(Mechanism):
    """MALA's attention. Arguments as for `Mechanism`; `attn_drop` falls on φ(k).

    Raises:
        ValueError: a mask between pairs of tokens, or causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias=proj_bias, **host)
        self.refuse_host_options(**host)
        factory = dict(device=device, dtype=dtype)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **factory)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q, k, v = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        q, k = F.elu(q) + 1, self.attn_drop(F.elu(k) + 1)
        bias = self.key_bias(attn_mask, x)
        # 1/N for each token, or what a softmax over the tokens that take part makes of it.
        share_b11n = (x.new_zeros(1, 1, x.shape[1]) if bias is None else bias).softmax(dim=-1).unsqueeze(1)
        mean_k = share_b11n @ k
        weighted_v = share_b11n.transpose(-2, -1) * v
        # The factor 1/√d cancels in the quotient and stays in the rest.
        linear = divide(q @ (k.transpose(-2, -1) @ weighted_v), q @ mean_k.transpose(-2, -1))
        rest = q @ ((k - mean_k).transpose(-2, -1) @ weighted_v) * self.scale
        return self.proj_drop(self.proj(self.merge_heads(linear + rest)))
