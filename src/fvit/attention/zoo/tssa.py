"""TSSA, token statistics self-attention: channels are damped by their second moments over the tokens of a head.

Source: Wu et al., "Token Statistics Transformer: Linear-Time Attention via Variational Rate Reduction",
arXiv:2412.17810 (ToST).

    out_n = −W_o (π_n ⊙ w_n ⊘ (1 + Σ_m π_m w_m² / Σ_m π_m)),      w = W x + b
    π_n = softmax_heads(τ Σ_d (w_nd / ‖w_d‖)²),      ‖w_d‖ the norm of channel d over the tokens

with squares and quotients per element. π_nh, the membership of token n in head h, is one number per token and head, and
τ is learned per head. There are no keys and values: one projection takes the place of three.

Cost: O(N·D) besides two projections, half of softmax attention's. A mask of b weights a token by exp(b) in both sums.

Family: additive.

Code: RobinWu218/ToST.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import divide
from fvit.attention.registry import register


@register("tssa")
class TSSA(Mechanism):
    """Token statistics self-attention. Arguments as for `Mechanism`.

    `attn_drop` applies to the damping 1 / (1 + …) of the channels.
    """

    def __init__(self, dim: int, num_heads: int = 8, qkv_bias: bool = True, **shared: Any) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        self.w = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.temperature = nn.Parameter(torch.empty(num_heads, **self.factory))
        self.proj = nn.Linear(dim, dim, **self.factory)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.ones_(self.temperature)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        w = self.split_heads(self.w(x))
        bias = self.key_bias(attn_mask, x)
        seen = w if bias is None else w * (bias / 2).exp().unsqueeze(-1)
        norms_bh1d = torch.linalg.vector_norm(seen, dim=-2, keepdim=True)
        energy_bhn = divide(w, norms_bh1d).square().sum(dim=-1)
        membership_bhn = (energy_bhn * self.temperature[:, None]).softmax(dim=1)
        shares_bhn = membership_bhn if bias is None else membership_bhn * bias.exp()
        shares_bhn = divide(shares_bhn, shares_bhn.sum(dim=-1, keepdim=True))
        damping_bh1d = self.attn_drop(1 / (1 + shares_bhn.unsqueeze(-2) @ w.square()))
        out = w * membership_bhn.unsqueeze(-1).to(w.dtype) * damping_bh1d.to(w.dtype)
        return self.proj_drop(self.proj(-self.merge_heads(out)))
