"""Efficient additive attention (SwiftFormer): one global query, and a linear map in place of the values.

Source: Shaker et al., "SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile Vision
Applications", arXiv:2303.15446.

    q̂ = q / ‖q‖, k̂ = k / ‖k‖      a = norm_N(q̂ w_g / √d)      g = Σ_n a_n q̂_n
    out_n = W_f (W_p (g ⊙ k̂_n) + b_p + q̂_n) + b_f

The norms ‖q‖ and ‖k‖ are over all channels of a token.

Cost: O(N·D) besides the four projections. The paper writes norm as a softmax over tokens; the authors' code divides a
by its L2 norm over tokens instead. As in that code the number of heads enters only through √d: one vector w_g spans all
channels, and the paper runs `num_heads` = 1.

Family: additive.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import cast_once, unit
from fvit.attention.registry import register


@register("swiftformer")
class SwiftFormerAttention(Mechanism):
    """SwiftFormer's efficient additive attention. Other arguments as for `Projected`; `attn_drop` applies to a.

    Args:
        norm: ``softmax`` over tokens (the paper) or division by the ``l2`` norm over tokens (the authors' code).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        proj_bias: bool = True,
        norm: Literal["softmax", "l2"] = "softmax",
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_bias=proj_bias, **shared)
        if norm not in ("softmax", "l2"):
            raise ValueError(f"swiftformer: norm={norm!r} must be one of softmax, l2")
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.k = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.query_logit = nn.Parameter(torch.empty(dim, **self.factory))
        self.transform = nn.Linear(dim, dim, **self.factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **self.factory)
        self.norm = norm
        self.init_weights()

    def init_weights(self) -> None:
        """Draw w_g from N(0, 1): it multiplies unit vectors, so a small one would weight all tokens equally."""
        nn.init.normal_(self.query_logit)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        bias = self.key_bias(attn_mask, x)
        x = cast_once(x)
        q_bnc, k_bnc = unit(self.q(x), dim=-1), unit(self.k(x), dim=-1)
        logits_b1n = (q_bnc @ self.query_logit).unsqueeze(1) * self.scale
        if self.norm == "softmax":
            weights_b1n = (logits_b1n if bias is None else logits_b1n + bias).softmax(dim=-1)
        else:
            weights_b1n = unit(logits_b1n if bias is None else logits_b1n * bias.exp(), dim=-1)
        global_query_b1c = self.attn_drop(weights_b1n) @ q_bnc
        return self.proj_drop(self.proj(self.transform(global_query_b1c * k_bnc) + q_bnc))
