"""Sigmoid attention: every pair of tokens is weighed for itself, without competition between keys.

Source: Ramapuram et al., "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", arXiv:2409.04431.

    out = σ(QKᵀ/√d − ln N) V

The bias −ln N, the paper's choice, makes a fresh map's rows sum to about 1. Under a mask N is the number of keys that
the query sees, so that hidden tokens are as if absent.

Cost: O(N²·D) besides the four projections.
"""

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import pair_bias
from fvit.attention.registry import register


@register("sigmoid")
class Sigmoid(Mechanism):
    """Attention with a sigmoid in place of the softmax. Arguments as for `Mechanism`; `attn_drop` falls on the map."""

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
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` broadcasts to [B, H, N, N]."""
        q, k, v = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        bias, seen_keys = pair_bias(attn_mask, is_causal, x)
        logits_bhnn = (q * self.scale) @ k.transpose(-2, -1) - seen_keys.log()
        if bias is not None:
            logits_bhnn = logits_bhnn + bias
        out_bhnd = self.attn_drop(logits_bhnn.sigmoid()) @ v
        return self.proj_drop(self.proj(self.merge_heads(out_bhnd)))
