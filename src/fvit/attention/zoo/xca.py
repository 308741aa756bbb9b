"""XCA, cross-covariance attention: a softmax between channels instead of tokens.

Source: El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", arXiv:2106.09681.

    out = V softmax(K̂ᵀ Q̂ · τ)

Each channel of Q̂ and K̂ is L2-normalised over the tokens, the softmax is over the channels of K, and τ is learned per
head. It multiplies, as in the authors' code; the paper divides by it. The local patch interaction of XCiT's blocks is a
separate layer and not included.

Cost: O(N·D·d) besides the four projections. A mask of b weights a token by exp(b) in all three sums over tokens.

Family: linear.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fvit.attention.ops import unit
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("xca")
class XCA(Projected):
    """Cross-covariance attention. Arguments as for `Projected`; `attn_drop` applies to the map between channels."""

    def __init__(self, dim: int, num_heads: int = 8, **shared: Any) -> None:
        super().__init__(dim, num_heads, **shared)
        self.temperature = nn.Parameter(torch.empty(num_heads, **self.factory))
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.ones_(self.temperature)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None:
            # Each sum over tokens has two factors q or k, so each factor takes the square root of exp(b).
            root = (bias / 2).exp().unsqueeze(-1)
            q, k = q * root, k * root
        q, k = unit(q, dim=-2), unit(k, dim=-2)
        logits_bhdd = q.transpose(-2, -1) @ k * self.temperature[:, None, None]
        map_bhdd = self.attn_drop(logits_bhdd.softmax(dim=-1))
        return v @ map_bhdd.transpose(-2, -1)
