"""AFT-simple, attention-free transformer without position biases: keys alone weight the values, channel-wise.

Source: Zhai et al., "An Attention Free Transformer", arXiv:2105.14103 (AFT-simple).

    out_n = W_o (σ(q_n) ⊙ Σ_m softmax_N(K)_m ⊙ v_m)

The softmax runs over tokens, separately for each channel. Every channel is a head of its own, so `num_heads` has no
effect. The output projection is that of the attention which AFT replaces.

Cost: O(N·D) besides the four projections.

Family: additive.
"""

from torch import Tensor

from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("aft_simple")
class AFTSimple(Projected):
    """AFT-simple. Arguments as for `Projected`; `attn_drop` applies to the softmax of the keys."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None:
            k = k + bias.unsqueeze(-1)
        return q.sigmoid() * (self.attn_drop(k.softmax(dim=-2)) * v).sum(dim=-2, keepdim=True)
