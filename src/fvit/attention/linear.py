"""Linear attention: a kernel in place of the softmax, so that the sums can be taken in the other order.

Source: Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236, equations 4-7.

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / (φ(q_n) Σ_m φ(k_m)),      φ = elu + 1

Cost: O(N·D·d) besides the four projections.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.registry import register


@register("linear")
class Linear(Mechanism):
    """Linear attention with φ = elu + 1. Arguments as for `Mechanism`; `attn_drop` falls on φ(k).

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
        q, k = F.elu(q) + 1, F.elu(k) + 1
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
            k = k * bias.to(k.dtype).exp().unsqueeze(-1)
        k = self.attn_drop(k)
        numerator_bhnd = q @ (k.transpose(-2, -1) @ v)
        normaliser_bhn1 = q @ k.sum(dim=-2).unsqueeze(-1)
        # φ underflows to 0 for very negative inputs, and so does the numerator. Dividing by 1 keeps the output
        # and its gradient finite; a clamp to the smallest number would not: its reciprocal overflows.
        out = numerator_bhnd / torch.where(normaliser_bhn1 > 0, normaliser_bhn1, 1)
        return self.proj_drop(self.proj(self.merge_heads(out)))
