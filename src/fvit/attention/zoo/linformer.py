"""Linformer: keys and values of N tokens projected to k rows, before a softmax attention over these.

Source: Wang et al., "Linformer: Self-Attention with Linear Complexity", arXiv:2006.04768, equation 7, with one
E and one F for all heads of a layer (the paper's headwise sharing).

    out = softmax(Q (E K)ᵀ / √d) F V,      E, F [k, N]

Cost: O(N·k·D) besides the four projections, of which those of keys and values are of k rows where k < N: with the sums
taken first, E K = (E X) W_kᵀ + (E 1) b_kᵀ. E and F are learned, without biases, and drawn as in the authors' code. With
k = N and E = F = 1 this is softmax attention. A mask of b weighs a token's column in both by exp(b).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.ops import project_sums
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("linformer")
class Linformer(FixedLength, Projected):
    """Linformer's attention. Arguments as for `Projected`, `attn_drop` falls on the map, and:

    Args:
        projected_tokens: number k of rows to which keys and values are projected.

    Raises:
        ValueError: `projected_tokens` is below 1; the tokens are not those of the layout; a mask between pairs of
            tokens, or causality, is asked for.
    """

    token_axes: ClassVar = {"key_projection.weight": (1,), "value_projection.weight": (1,)}
    summed_axes: ClassVar = token_axes

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        projected_tokens: int = 64,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        if projected_tokens < 1:
            raise ValueError(f"linformer: projected_tokens={projected_tokens} leaves no key; take at least 1")
        factory = dict(device=device, dtype=dtype)
        self.key_projection = nn.Linear(1, projected_tokens, bias=False, **factory)
        self.value_projection = nn.Linear(1, projected_tokens, bias=False, **factory)

    def init_weights(self) -> None:
        """Draw E and F from Xavier's uniform distribution with a gain of 1/√2, as the authors do."""
        for projection in (self.key_projection, self.value_projection):
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        if self.form == "textbook" or x.shape[1] <= self.key_projection.out_features:
            return super().forward(x, attn_mask, is_causal)
        self.refuse_causal(is_causal)
        self.check_length(x)
        bias = self.key_bias(attn_mask, x)
        presence = 1 if bias is None else bias.exp().expand(x.shape[0], -1, -1)
        q_weight, k_weight, v_weight = self.qkv.weight.chunk(3)
        q_bias, k_bias, v_bias = (None, None, None) if self.qkv.bias is None else self.qkv.bias.chunk(3)
        q = F.linear(x, q_weight, q_bias)
        k = project_sums(self.key_projection.weight * presence, x, k_weight, k_bias)
        v = project_sums(self.value_projection.weight * presence, x, v_weight, v_bias)
        return self.output(self._attend(*(self.split_heads(t) for t in (q, k, v))))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q, k, v [B, H, N, d] to [B, H, N, d]."""
        self.check_length(q)
        if bias is not None:
            presence = bias.exp().unsqueeze(-1)
            k, v = k * presence, v * presence
        k = self.key_projection(k.transpose(-2, -1)).transpose(-2, -1)
        v = self.value_projection(v.transpose(-2, -1)).transpose(-2, -1)
        return self._attend(q, k, v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop.p if self.training else 0.0)
