"""Cross-covariance attention: a softmax between channels in place of one between tokens.

Source: El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", arXiv:2106.09681.

    out = V softmax(K̂ᵀ Q̂ · τ)

Q̂ and K̂ have each channel scaled to length 1 over the tokens, the softmax runs over the channels of K, and τ is learned,
one a head. It multiplies, as in the authors' code; the paper writes the same with 1/τ. The convolutions of XCiT's
blocks, its local patch interaction, are a layer of their own and no part of this.

Cost: O(N·D·d) besides the four projections. A mask of b weighs a token's share in all three sums over tokens by exp(b).
"""

import torch
from torch import Tensor, nn

from fvit.attention.ops import unit
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("xca")
class Xca(Projected):
    """Cross-covariance attention. Arguments as for `Projected`; `attn_drop` falls on the map between channels.

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
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        factory = dict(device=device, dtype=dtype)
        self.temperature = nn.Parameter(torch.empty(num_heads, **factory))
        self.init_weights()

    def init_weights(self) -> None:
        """Start from a temperature of 1, as the authors do."""
        nn.init.ones_(self.temperature)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q, k, v = self.heads(x)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            # Tokens enter by squares and products of q and k, so that each takes the root of the weight exp(b).
            root = (bias / 2).exp().unsqueeze(-1)
            q, k = q * root, k * root
        q, k = unit(q, dim=-2), unit(k, dim=-2)
        logits_bhdd = q.transpose(-2, -1) @ k * self.temperature[:, None, None]
        map_bhdd = self.attn_drop(logits_bhdd.softmax(dim=-1))
        return self.output(v @ map_bhdd.transpose(-2, -1))
