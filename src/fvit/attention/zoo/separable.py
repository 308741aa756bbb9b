"""Separable self-attention (MobileViTv2): one softmax over tokens and one context vector for all of them.

Source: Mehta and Rastegari, "Separable Self-attention for Mobile Vision Transformers", arXiv:2206.02680 (MobileViTv2).

    s = softmax_N(x w_I)      c = Σ_n s_n x_n W_K      out_n = (ReLU(x_n W_V) ⊙ c) W_O

Cost: O(N·D) besides the three D×D projections, of which W_K applies to one vector, (Σ_n s_n x_n) W_K. There is one
head, as in the paper: w_I has one column and c shares its scores across channels, so `num_heads` has no effect. The
softmax is over tokens, so a bias on the logits would have no effect and there is none.

Family: additive.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import cast_once, project_sums
from fvit.attention.registry import register


@register("separable")
class SeparableAttention(Mechanism):
    """Separable self-attention. Arguments as for `Projected`; `attn_drop` applies to the scores s."""

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, *, proj_bias: bool = True, **shared: Any
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_bias=proj_bias, **shared)
        self.logit = nn.Linear(dim, 1, bias=False, **self.factory)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias, **self.factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **self.factory)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        bias, x = self.key_bias(attn_mask, x), cast_once(x)
        logits_b1n = self.logit(x).transpose(-2, -1)
        scores_b1n = self.attn_drop((logits_b1n if bias is None else logits_b1n + bias).softmax(dim=-1))
        if self.form == "textbook":
            k_bnc, v_bnc = self.kv(x).chunk(2, dim=-1)
            context_b1c = scores_b1n @ k_bnc
        else:
            k_weight, v_weight = self.kv.weight.chunk(2)
            k_bias, v_bias = (None, None) if self.kv.bias is None else self.kv.bias.chunk(2)
            v_bnc, context_b1c = F.linear(x, v_weight, v_bias), project_sums(scores_b1n, x, k_weight, k_bias)
        return self.proj_drop(self.proj(F.relu(v_bnc) * context_b1c))
