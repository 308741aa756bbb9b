"""Gated attention: softmax attention whose output is gated, element by element, by its input.

Source: Qiu et al., "Gated Attention for Large Language Models: Non-linearity, Sparsity, and Attention-Sink-Free",
arXiv:2505.06708, the gate after SDPA (position G1), element-wise.

    out = W_o (softmax(QKᵀ/√d) V ⊙ σ(W_g x + b_g))

x is the input of the mechanism, after the block's norm, as in the authors' code; b_g comes and goes with the biases
of the input projections.

Cost: O(N²·D) besides five projections, one more than softmax attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import refuse_mask_and_causality, softmax_map
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("gated")
class Gated(Projected):
    """Softmax attention with a sigmoid gate on its output, before the output projection.

    Arguments as for `Projected`; `attn_drop` falls on the attention map.
    """

    takes_pair_mask = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        factory = dict(device=device, dtype=dtype)
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **factory)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` broadcasts to [B, H, N, N]."""
        refuse_mask_and_causality(attn_mask, is_causal)
        q, k, v = self.heads(x)
        dropout = self.attn_drop.p if self.training else 0.0
        out_bhnd = F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p=dropout, is_causal=is_causal)
        return self.proj_drop(self.proj(self.merge_heads(out_bhnd) * self.gate(x).sigmoid()))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """As `Mechanism.weights`: the ``map``, before the gate."""
        q, k, _ = self.heads(x)
        return {"map": softmax_map(q, k, attn_mask, is_causal)}
