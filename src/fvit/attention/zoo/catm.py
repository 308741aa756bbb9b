"""CATM, convolutional additive token mixing: what a token shares with others is the sum of a gated query and key.

Source: Zhang et al., "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for Efficient Mobile
Applications", arXiv:2408.03703.

    out = Γ′(Γ(Φ(Q) + Φ(K)) ⊙ V)                  Φ(q) = C(S(q))
    S(q)_n = σ(w · ReLU(Γ″(q)_n)) q_n             C(s)_n = σ(W mean_m s_m) ⊙ s_n

Γ, Γ′ and Γ″ are depth-wise 3×3 convolutions with a bias, each with weights of its own, as are the two Φ. There are no
heads and there is no attention map, so that `num_heads` and `attn_drop` change nothing, and, as in the authors' code,
Γ′ stands in place of an output projection. That code normalises Γ″(q) by batch statistics. At inference this scales
and shifts channels, which Γ″ itself can do; in training it would tie the images of a batch to each other, and is left
out.

A prefix token lies on no grid: a convolution passes it on as it is. It takes part in the channel gate C, which is all
that tokens far apart have of each other here, and by which alone it learns of the patches. A hidden token is no part of
the mean, and zero to the convolutions, as the border is.

Cost: O(4·9·N·D) for the four convolutions, and O(D²) an image for the gates, besides the three projections.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import depthwise, token_shares
from fvit.attention.registry import register


@register("catm")
class Catm(Mechanism):
    """CAS-ViT's token mixer. Arguments as for `Mechanism`.

    Raises:
        ValueError: the tokens do not fill the grid; a mask between pairs of tokens, or causality, is asked for.
    """

    needs_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, **host)
        self.refuse_host_options(**host)
        factory = dict(device=device, dtype=dtype)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        # Of queries and of keys, in this order.
        self.spatial_conv = nn.ModuleList(depthwise("catm", dim, 3, **factory) for _ in range(2))
        self.spatial_gate = nn.ModuleList(nn.Linear(dim, 1, bias=False, **factory) for _ in range(2))
        self.channel_gate = nn.ModuleList(nn.Linear(dim, dim, bias=False, **factory) for _ in range(2))
        self.sum_conv = depthwise("catm", dim, 3, **factory)
        self.out_conv = depthwise("catm", dim, 3, **factory)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        bias = self.key_bias(attn_mask, x)
        share_b1n = token_shares(bias, x)
        presence_bn1 = None if bias is None else bias.exp().transpose(1, 2)
        context = self._gated(q, 0, share_b1n, presence_bn1) + self._gated(k, 1, share_b1n, presence_bn1)
        mixed = self._convolved(self.sum_conv, context, presence_bn1) * v
        return self.proj_drop(self._convolved(self.out_conv, mixed, presence_bn1))

    def _gated(self, x: Tensor, which: int, share_b1n: Tensor, presence_bn1: Tensor | None) -> Tensor:
        """Φ(x): tokens [B, N, C] under a gate on each token, then under one on each channel."""
        local = self._convolved(self.spatial_conv[which], x, presence_bn1)
        x = x * self.spatial_gate[which](F.relu(local)).sigmoid()
        return x * self.channel_gate[which](share_b1n @ x).sigmoid()

    def _convolved(self, conv: nn.Conv2d, x: Tensor, presence_bn1: Tensor | None) -> Tensor:
        """`conv` over the patches of tokens [B, N, C]; prefix tokens stay as they are."""
        if presence_bn1 is not None:
            # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
            x = x * presence_bn1
        patches = conv(self.to_grid(x)).flatten(2).transpose(1, 2)
        return torch.cat([x[:, : self.num_prefix_tokens], patches], dim=1)
