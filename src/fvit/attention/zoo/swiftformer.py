"""Efficient additive attention: one global query, and a linear map in place of the values.

Source: Shaker et al., "SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile Vision
Applications", arXiv:2303.15446.

    q̂ = q / ‖q‖, k̂ = k / ‖k‖      a = norm_N(q̂ w_g / √d)      g = Σ_n a_n q̂_n
    out_n = W_f (W_p (g ⊙ k̂_n) + b_p + q̂_n) + b_f

The lengths ‖q‖ and ‖k‖ are those of a token over all its channels.

Cost: O(N·D) besides the four projections. The paper writes norm as a softmax over tokens; the published code divides
a by its L2 norm over tokens instead. As in that code the heads enter through √d alone: one vector w_g spans all
channels, and `num_heads` = 1 is what the paper runs.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import unit
from fvit.attention.registry import register


@register("swiftformer")
class SwiftFormer(Mechanism):
    """SwiftFormer's efficient additive attention. Arguments as for `Mechanism`, and:

    Args:
        norm: ``softmax`` over tokens (the paper) or division by the ``l2`` norm over tokens (the published code).

    Raises:
        ValueError: `norm` is unknown; a mask between pairs of tokens, or causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        norm: Literal["softmax", "l2"] = "softmax",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias=proj_bias, **host)
        self.refuse_host_options(**host)
        if norm not in ("softmax", "l2"):
            raise ValueError(f"swiftformer: norm={norm!r} is none of softmax, l2")
        factory = dict(device=device, dtype=dtype)
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **factory)
        self.k = nn.Linear(dim, dim, bias=qkv_bias, **factory)
        self.query_logit = nn.Parameter(torch.empty(dim, **factory))
        self.transform = nn.Linear(dim, dim, **factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **factory)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)
        self.norm = norm
        self.init_weights()

    def init_weights(self) -> None:
        """Draw w_g from N(0, 1): the queries it meets have length 1, so that a small one would weigh all alike."""
        nn.init.normal_(self.query_logit)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        bias = self.key_bias(attn_mask, x)
        q_bnc, k_bnc = unit(self.q(x), dim=-1), unit(self.k(x), dim=-1)
        logits_b1n = (q_bnc @ self.query_logit).unsqueeze(1) * self.scale
        if self.norm == "softmax":
            weights_b1n = (logits_b1n if bias is None else logits_b1n + bias).softmax(dim=-1)
        else:
            weights_b1n = unit(logits_b1n if bias is None else logits_b1n * bias.exp(), dim=-1)
        global_query_b1c = self.attn_drop(weights_b1n) @ q_bnc
        return self.proj_drop(self.proj(self.transform(global_query_b1c * k_bnc) + q_bnc))
