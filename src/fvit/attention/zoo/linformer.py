"""Linformer: softmax attention over k linear combinations of the N keys and values.

Source: Wang et al., "Linformer: Self-Attention with Linear Complexity", arXiv:2006.04768, equation 7, with one
E and one F for all heads of a layer (the paper's headwise sharing).

    out = softmax(Q (E K)ᵀ / √d) F V,      E, F [k, N]

Cost: O(N·k·D) besides the four projections, of which those of keys and values have k rows if k < N: combined first,
E K = (E X) W_kᵀ + (E 1) b_kᵀ. E and F are learned, without biases, and initialised as in the authors' code. With k = N
and E = F = 1 this is softmax attention. A mask of b multiplies a token's column of both by exp(b).

Released code: projects to keys and values after E and F, so it adds b_k and b_v to each combined row as they are; here
they belong to the tokens and are multiplied by the row's sum.

Family: low rank.
"""

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.ops import cast_once, project_sums
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("linformer")
class LinformerAttention(FixedLength, Projected):
    """Linformer's attention. Other arguments as for `Projected`; `attn_drop` applies to the map.

    Args:
        projected_tokens: number k of projected keys and values, at least 1.
    """

    token_axes: ClassVar = {"key_projection.weight": (1,), "value_projection.weight": (1,)}
    summed_axes: ClassVar = token_axes
    adds_conv = True

    def __init__(self, dim: int, num_heads: int = 8, *, projected_tokens: int = 64, **shared: Any) -> None:
        super().__init__(dim, num_heads, **shared)
        if projected_tokens < 1:
            raise ValueError(f"linformer: projected_tokens={projected_tokens} must be at least 1")
        self.key_projection = nn.Linear(1, projected_tokens, bias=False, **self.factory)
        self.value_projection = nn.Linear(1, projected_tokens, bias=False, **self.factory)

    def init_weights(self) -> None:
        for projection in (self.key_projection, self.value_projection):
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        self.check_length(q)
        if bias is not None:
            factor = bias.exp().unsqueeze(-1)
            k, v = k * factor, v * factor
        k = self.key_projection(k.transpose(-2, -1)).transpose(-2, -1)
        v = self.value_projection(v.transpose(-2, -1)).transpose(-2, -1)
        return self.sdpa(q, k, v)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if self.form == "textbook" or self.conv is not None or x.shape[1] <= self.key_projection.out_features:
            return super().forward(x, attn_mask, is_causal)
        # The same, with tokens combined before they are projected to keys and values.
        self.refuse_causal(is_causal)
        self.check_length(x)
        bias, x = self.key_bias(attn_mask, x), cast_once(x)
        factor = 1 if bias is None else bias.exp().expand(x.shape[0], -1, -1)
        q_weight, k_weight, v_weight = self.qkv.weight.chunk(3)
        q_bias, k_bias, v_bias = (None, None, None) if self.qkv.bias is None else self.qkv.bias.chunk(3)
        q = F.linear(x, q_weight, q_bias)
        k = project_sums(self.key_projection.weight * factor, x, k_weight, k_bias)
        v = project_sums(self.value_projection.weight * factor, x, v_weight, v_bias)
        return self.output(self.sdpa(*(self.split_heads(t) for t in (q, k, v))))
