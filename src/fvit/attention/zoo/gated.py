"""Gated attention: softmax attention with an element-wise sigmoid gate on its output.

Source: Qiu et al., "Gated Attention for Large Language Models: Non-linearity, Sparsity, and Attention-Sink-Free",
arXiv:2505.06708, the element-wise gate after SDPA (position G1).

    out = W_o (softmax(QKᵀ/√d) V ⊙ σ(W_g x + b_g))

x is the input of the mechanism, after the block's norm, as in the authors' code. b_g exists if the input projections
have biases.

Cost: O(N²·D) besides five projections, one more than softmax attention.

Family: softmax.
"""

from typing import Any

from torch import Tensor, nn

from fvit.attention.ops import cast_once, refuse_mask_and_causality, softmax_map
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("gated")
class GatedAttention(Projected):
    """Softmax attention, gated before the output projection. Arguments as for `Projected`."""

    takes_pair_mask = True
    adds_conv = True

    def __init__(self, dim: int, num_heads: int = 8, qkv_bias: bool = True, **shared: Any) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        refuse_mask_and_causality(attn_mask, is_causal)
        x = cast_once(x)
        q, k, v = self.heads(x)
        out = self.add_conv(self.sdpa(q, k, v, attn_mask, is_causal=is_causal), v, attn_mask, is_causal)
        return self.proj_drop(self.proj(self.merge_heads(out) * self.gate(x).sigmoid()))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """The ``map``, before the gate."""
        q, k, _ = self.heads(x)
        return {"map": softmax_map(q, k, attn_mask, is_causal)}
