"""Hedgehog: linear attention with learned features that can imitate a softmax, for pretrained models.

Source: Zhang et al., "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry",
arXiv:2402.04347; as in Zhang et al., "LoLCATs: On Low-Rank Linearizing of Large Language Models", arXiv:2410.10254.

    out_n = φ(q_n) Σ_m φ'(k_m)ᵀ v_m / (φ(q_n) Σ_m φ'(k_m)),      φ(x) = [softmax(W x), softmax(−W x)]

W is a d×d matrix per head, for queries and for keys, and starts as the identity. The softmax is over the d features;
the first paper's has no denominator. Trained first on the attention maps or outputs of a pretrained softmax model,
whose `qkv` and `proj` load here, the features replace its softmax with a small loss.

Cost: O(N·D·d) besides the four projections; the maps W add O(2·N·D·d), and features are twice as wide as heads.

Family: linear.

Code: HazyResearch/lolcats.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fvit.attention.ops import kernel_average
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("hedgehog")
class HedgehogAttention(Projected):
    """Hedgehog's linear attention. Arguments as for `Projected`; `attn_drop` applies to φ(k)."""

    def __init__(self, dim: int, num_heads: int = 8, **shared: Any) -> None:
        super().__init__(dim, num_heads, **shared)
        d = self.head_dim
        self.query_map = nn.Parameter(torch.empty(num_heads, d, d, **self.factory))
        self.key_map = nn.Parameter(torch.empty(num_heads, d, d, **self.factory))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        for weight in (self.query_map, self.key_map):
            weight.copy_(torch.eye(self.head_dim).expand_as(weight))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k = _features(q @ self.query_map), _features(k @ self.key_map)
        if bias is not None:
            k = k * bias.exp().unsqueeze(-1)
        return kernel_average(q, self.attn_drop(k), v)


def _features(x: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, H, N, 2d]."""
    return torch.cat([x.softmax(dim=-1), (-x).softmax(dim=-1)], dim=-1)
