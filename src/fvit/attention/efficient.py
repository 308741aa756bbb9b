"""Efficient attention: one softmax for queries and one for keys, so that no map of pairs is needed.

Source: Shen et al., "Efficient Attention: Attention with Linear Complexities", arXiv:1812.01243, with the
softmax as normalisation.

    out = softmax_d(Q) (softmax_N(K)ᵀ V)

Queries are normalised over the channels of a head and keys over tokens; there is no 1/√d. The rows of the implied map
sum to 1. The residual of the published module is left to the host.

Cost: O(N·D·d) besides the four projections.
"""

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.registry import register


@register("efficient")
class Efficient(Mechanism):
    """Efficient attention. Arguments as for `Mechanism`; `attn_drop` falls on softmax_N(K).

    Raises:
        ValueError: a mask between pairs of tokens, or causality, is asked for.
    """

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
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias=proj_bias, **host)
        self.refuse_host_options(**host)
        factory = dict(device=device, dtype=dtype)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **factory)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q, k, v = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            k = k + bias.unsqueeze(-1)
        k = self.attn_drop(k.softmax(dim=-2))
        out_bhnd = q.softmax(dim=-1) @ (k.transpose(-2, -1) @ v)
        return self.proj_drop(self.proj(self.merge_heads(out_bhnd)))
