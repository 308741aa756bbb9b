"""Efficient attention: separate softmaxes for queries and keys make the product associative.

Source: Shen et al., "Efficient Attention: Attention with Linear Complexities", arXiv:1812.01243, with softmax
normalisation.

    out = softmax_d(Q) (softmax_N(K)ᵀ V)

Queries are normalised over the channels of a head, keys over tokens, without 1/√d. The rows of the implied map sum to
1. The residual connection of the published module is left to the host.

Cost: O(N·D·d) besides the four projections.

Family: linear.
"""

from torch import Tensor

from fvit.attention.ops import associate
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("efficient")
class EfficientAttention(Projected):
    """Efficient attention. Arguments as for `Projected`; `attn_drop` applies to softmax_N(K)."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None:
            k = k + bias.unsqueeze(-1)
        k = self.attn_drop(k.softmax(dim=-2))
        return associate(q.softmax(dim=-1), k, v)
