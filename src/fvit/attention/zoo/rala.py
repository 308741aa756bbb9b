"""RALA, rank-augmented linear attention: keys weighted by a global query, and an output gate.

Source: Fan et al., "Breaking the Low-Rank Dilemma of Linear Attention", arXiv:2411.07635 (RALA).

    out_n = W_o ((Σ_m s_nm v_m / Σ_m s'_nm [+ DWC(v)_n]) ⊙ (W_g x_n + b_g)),      s'_nm = φ(q_n) · α_m φ(k_m)
    α = softmax_N(φ(K) q̄ / √d),      q̄ = mean_n φ(q_n),      φ = elu + 1

s is s', in the authors' models of features rotated by position, which the normaliser does not have. α has a factor N in
the paper, which cancels. The gate has no activation and augments the rank of the output as α does that of the sum over
keys. Prefix tokens are not rotated.

Cost: O(N·D·d) besides five projections, one more than softmax attention; DWC adds O(N·D·w²).

Family: linear.

Code: qhfan/RALA (no licence file).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import cast_once, kernel_average, token_shares
from fvit.attention.positions import Rotary
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("rala")
class RALA(Projected):
    """RALA. Other arguments as for `Projected`; `attn_drop` applies to α φ(k).

    Args:
        rotary: rotate the features by row and column; needs the grid and a d divisible by 4.
    """

    adds_conv = True

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, *, rotary: bool = False, **shared: Any
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.rotary = Rotary("rala", self.head_dim, **self.factory) if rotary else None
        self.needs_grid = self.needs_grid or rotary

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        bias, x = self.key_bias(attn_mask, x), cast_once(x)
        q, k, v = self.heads(x)
        out = self.add_conv(self.mix(q, k, v, bias), v, attn_mask)
        return self.proj_drop(self.proj(self.merge_heads(out) * self.gate(x)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        # Logits in float32 at least, as sums: autocast would round those of a product to 16 bits before the softmax.
        exact = torch.promote_types(q.dtype, torch.float32)
        mean_q = (token_shares(bias, q).unsqueeze(-1) * q.to(exact)).sum(dim=-2, keepdim=True)
        logits_bhn = (mean_q * self.scale * k.to(exact)).sum(dim=-1)
        if bias is not None:
            logits_bhn = logits_bhn + bias
        k = self.attn_drop(k * logits_bhn.softmax(dim=-1).to(k.dtype).unsqueeze(-1))
        return kernel_average(q, k, v, self.rotary)
