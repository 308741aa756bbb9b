"""Efficient attention: one softmax for queries and one for keys, so that no map of pairs is needed.

Source: Shen et al., "Efficient Attention: Attention with Linear Complexities", arXiv:1812.01243, with the
softmax as normalisation.

    out = softmax_d(Q) (softmax_N(K)ᵀ V)

Queries are normalised over the channels of a head and keys over tokens; there is no 1/√d. The rows of the implied map
sum to 1. The residual of the published module is left to the host.

Cost: O(N·D·d) besides the four projections.
"""

from torch import Tensor

from fvit.attention.ops import associate
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("efficient")
class Efficient(Projected):
    """Efficient attention. Arguments as for `Projected`; `attn_drop` falls on softmax_N(K).

    Raises:
        ValueError: a mask between pairs of tokens, or causality, is asked for.
    """

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q, k, v [B, H, N, d] to [B, H, N, d]."""
        if bias is not None:
            k = k + bias.unsqueeze(-1)
        k = self.attn_drop(k.softmax(dim=-2))
        return associate(q.softmax(dim=-1), k, v)
