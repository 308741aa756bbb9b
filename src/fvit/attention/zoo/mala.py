"""Magnitude-aware linear attention: the length of a query, which linear attention divides out, counts again.

Source: Fan et al., "Rectifying Magnitude Neglect in Linear Attention", arXiv:2507.00698 (MALA).

    out_n = (β_n Σ_m s_nm v_m − γ_n Σ_m v_m [+ DWC(v)_n]) [⊙ (W_g x_n + b_g)],      s_nm = φ(q_n)·φ(k_m)
    β_n = 1 + 1/z_n,      γ_n = z_n / N,      z_n = Σ_m s_nm,      φ = elu + 1

so that the scores of a query sum to 1. Without rotation this is linear attention plus the covariance of keys and values
that the query asks for, and is evaluated so:

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / z_n + φ(q_n) Σ_m (φ(k_m) − mean φ(k))ᵀ v_m

As in the published code every s carries a factor 1/(N √d), without which z would grow with N. Its models rotate φ(q)
and φ(k) by their places before s is taken for the first sum, not for z; DWC is a depth-wise w×w convolution with a bias
over the patches; the gate has no activation. Prefix tokens are left out of rotation and convolution, and a hidden patch
is zero to the latter, as the border is.

Cost: O(N·D·d) besides the four projections; DWC adds O(N·D·w²), the gate a fifth projection.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import associate, convolve_patches, depthwise, divide, token_shares
from fvit.attention.projected import Projected
from fvit.attention.registry import register
from fvit.attention.rotary import rotate_patches


@register("mala")
class Mala(Projected):
    """MALA's attention. Arguments as for `Projected`, `attn_drop` falls on φ(k), and:

    Args:
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. It needs the grid of the patches.
        rotary: rotate the features by row and column, which needs the grid and a d divisible by 4.
        gate: multiply by a projection of the input, before the output projection.

    Raises:
        ValueError: an option is out of its range; tokens do not fill the grid that the convolution or the rotation
            needs; a mask between pairs of tokens, or causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        conv: int = 0,
        rotary: bool = False,
        gate: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        if rotary and self.head_dim % 4:
            raise ValueError(
                f"mala: heads of width {self.head_dim} have no pairs of channels for rows and columns; take num_heads "
                "so that dim / num_heads is a multiple of 4, or rotary=False"
            )
        factory = dict(device=device, dtype=dtype)
        self.conv = depthwise("mala: conv", dim, conv, **factory)
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **factory) if gate else None
        self.rotary = rotary
        self.needs_grid = rotary or conv > 0

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q, k, v = self.heads(x)
        bias = self.key_bias(attn_mask, x)
        out = self.merge_heads(self.mix(q, k, v, bias))
        if self.conv is not None:
            present_v = self.merge_heads(v if bias is None else v * bias.exp().unsqueeze(-1))
            out = out + convolve_patches(self.conv, present_v, self.grid_size, self.num_prefix_tokens)
        if self.gate is not None:
            out = out * self.gate(x)
        return self.proj_drop(self.proj(out))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q, k, v [B, H, N, d] to [B, H, N, d]."""
        q, k = F.elu(q) + 1, self.attn_drop(F.elu(k) + 1)
        share_b11n = token_shares(bias, q).unsqueeze(1)
        mean_k = share_b11n @ k
        weighted_v = share_b11n.transpose(-2, -1) * v
        # The factor 1/√d cancels in the quotient and stays in the rest.
        z = q @ mean_k.mT
        if not self.rotary:
            return divide(associate(q, k, weighted_v), z) + associate(q, k - mean_k, weighted_v) * self.scale
        turned_q, turned_k = (rotate_patches(t, self.grid_size, self.num_prefix_tokens) for t in (q, k))
        scored = associate(turned_q, turned_k, weighted_v)
        return divide(scored, z) + (scored - z * (share_b11n @ v)) * self.scale
