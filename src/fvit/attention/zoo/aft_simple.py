"""Attention-free transformer without position biases: keys alone weigh the tokens, channel by channel.

Source: Zhai et al., "An Attention Free Transformer", arXiv:2105.14103 (AFT-simple).

    out_n = W_o (σ(q_n) ⊙ Σ_m softmax_N(K)_m ⊙ v_m)

The softmax runs over tokens, for each channel. All channels are heads, so `num_heads` changes nothing. The output
projection is that of the attention which AFT replaces.

Cost: O(N·D) besides the four projections.
"""

from torch import Tensor

from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("aft_simple")
class AftSimple(Projected):
    """AFT-simple. Arguments as for `Projected`; `attn_drop` falls on the softmax of the keys.

    Raises:
        ValueError: a mask between pairs of tokens, or causality, is asked for.
    """

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q, k, v [B, H, N, d] to [B, H, N, d]."""
        if bias is not None:
            k = k + bias.unsqueeze(-1)
        return q.sigmoid() * (self.attn_drop(k.softmax(dim=-2)) * v).sum(dim=-2, keepdim=True)
