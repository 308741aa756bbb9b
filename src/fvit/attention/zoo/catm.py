"""CATM, CAS-ViT's convolutional additive token mixer: gated queries plus gated keys, convolved, multiply the values.

Source: Zhang et al., "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for Efficient Mobile
Applications", arXiv:2408.03703.

    out = Γ′(Γ(Φ(Q) + Φ(K)) ⊙ V)                  Φ(q) = C(S(q))
    S(q)_n = σ(w · ReLU(Γ″(q)_n)) q_n             C(s)_n = σ(W mean_m s_m) ⊙ s_n

Γ, Γ′ and Γ″ are separate depth-wise 3×3 convolutions with bias; the two Φ have separate weights. There are no heads and
no attention map, so `num_heads` and `attn_drop` have no effect; as in the authors' code, Γ′ replaces the output
projection.

Released code: applies batch normalisation after Γ″. At inference it is an affine map per channel that Γ″ can absorb; in
training it would make the images of a batch depend on each other, so it is left out.

Convolutions pass prefix tokens through unchanged. Prefix tokens take part in the channel gate C, the only path between
distant tokens and the only one from the patches to them. A hidden token is left out of the mean and is zero to the
convolutions, like the border.

Cost: O(4·9·N·D) for the four convolutions, and O(D²) per image for the gates, besides the three projections.

Family: convolution.

Code: Tianfang-Zhang/CAS-ViT (MIT).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import depthwise, token_shares
from fvit.attention.registry import register


@register("catm")
class CATM(Mechanism):
    """CAS-ViT's token mixer. Arguments as for `Mechanism`."""

    needs_grid = True

    def __init__(self, dim: int, num_heads: int = 8, qkv_bias: bool = True, **shared: Any) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **self.factory)
        # For queries, then for keys.
        self.spatial_conv = nn.ModuleList(depthwise("catm", dim, 3, **self.factory) for _ in range(2))
        self.spatial_gate = nn.ModuleList(nn.Linear(dim, 1, bias=False, **self.factory) for _ in range(2))
        self.channel_gate = nn.ModuleList(nn.Linear(dim, dim, bias=False, **self.factory) for _ in range(2))
        self.sum_conv = depthwise("catm", dim, 3, **self.factory)
        self.out_conv = depthwise("catm", dim, 3, **self.factory)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        share_b1n, factor_bn1 = token_shares(self.key_bias(attn_mask, x), x), self.mask_factor(attn_mask, x)
        context = self._gate(q, 0, share_b1n, factor_bn1) + self._gate(k, 1, share_b1n, factor_bn1)
        mixed = self._convolve(self.sum_conv, context, factor_bn1) * v
        return self.proj_drop(self._convolve(self.out_conv, mixed, factor_bn1))

    def _gate(self, x: Tensor, which: int, share_b1n: Tensor, factor_bn1: Tensor | None) -> Tensor:
        """Φ(x): a gate per token, then a gate per channel, [B, N, C] -> [B, N, C]."""
        local = self._convolve(self.spatial_conv[which], x, factor_bn1)
        x = x * self.spatial_gate[which](F.relu(local)).sigmoid()
        return x * self.channel_gate[which](share_b1n @ x).sigmoid()

    def _convolve(self, conv: nn.Conv2d, x: Tensor, factor_bn1: Tensor | None) -> Tensor:
        """`conv` over the patches of tokens [B, N, C]; prefix tokens pass through."""
        if factor_bn1 is not None:
            x = x * factor_bn1
        patches = conv(self.to_grid(x)).flatten(2).transpose(1, 2)
        return torch.cat([x[:, : self.num_prefix_tokens], patches], dim=1)
