"""ReLU linear attention: a ReLU as the kernel's feature map.

Source: Cai et al., "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
arXiv:2205.14756.

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / (φ(q_n) Σ_m φ(k_m)) [+ DWC(v)_n],      φ = ReLU

A query that meets no key, its features being 0 or orthogonal to all of theirs, gets 0. Two add-ons work on the patches;
a hidden patch is zero to both, as the border is. EfficientViT aggregates queries, keys and values of near patches, by a
depth-wise w×w convolution and a map of each head's channels, both without bias, and attends among these as well: there
are twice as many heads, and the output projection takes them all. Prefix tokens have no neighbours and go there as they
are. DWC is a depth-wise w×w convolution with a bias, without the prefix tokens: what later papers give to the linear
kernels that they compare with.

Cost: O(N·D·d) besides the four projections; DWC adds O(N·D·w²), the aggregation twice the kernel, O(N·D·(w² + d)) and a
fifth projection.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import convolve_patches, depthwise, kernel_average
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("relu_linear")
class ReluLinear(Projected):
    """Linear attention with φ = ReLU. Arguments as for `Projected`, `attn_drop` falls on φ(k), and:

    Args:
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. It needs the grid of the patches.
        aggregate: width w of the aggregation of queries, keys and values, odd; 0 for none. It needs the grid as well.

    Raises:
        ValueError: a width is even or negative; tokens do not fill the grid that it needs; a mask between pairs of
            tokens, or causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        conv: int = 0,
        aggregate: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        factory = dict(device=device, dtype=dtype)
        self.conv = depthwise("relu_linear: conv", dim, conv, **factory)
        near = depthwise("relu_linear: aggregate", 3 * dim, aggregate, bias=False, **factory)
        if near is None:
            self.aggregate = None
        else:
            within_heads = nn.Conv2d(3 * dim, 3 * dim, 1, groups=3 * num_heads, bias=False, **factory)
            self.aggregate = nn.Sequential(near, within_heads)
            self.proj = nn.Linear(2 * dim, dim, bias=proj_bias, **factory)
        self.needs_grid = conv > 0 or aggregate > 0

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        bias = self.key_bias(attn_mask, x)
        # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
        presence_bn1 = 1 if bias is None else bias.exp().transpose(1, 2)
        qkv = self.qkv(x)
        out = self._attend(qkv, presence_bn1)
        if self.conv is not None:
            values = qkv.chunk(3, dim=-1)[2] * presence_bn1
            out = out + convolve_patches(self.conv, values, self.grid_size, self.num_prefix_tokens)
        if self.aggregate is not None:
            out = torch.cat([out, self._attend(self._aggregated(qkv * presence_bn1), presence_bn1)], dim=-1)
        return self.proj_drop(self.proj(out))

    def _attend(self, qkv: Tensor, presence_bn1: Tensor | int) -> Tensor:
        """[B, N, 3C] -> [B, N, C]."""
        q, k, v = qkv.chunk(3, dim=-1)
        k = self.attn_drop(F.relu(k) * presence_bn1)
        return self.merge_heads(kernel_average(*(self.split_heads(t) for t in (F.relu(q), k, v))))

    def _aggregated(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values of the patches' surroundings, [B, N, 3C] -> [B, N, 3C]."""
        prefix = self.num_prefix_tokens
        near = convolve_patches(self.aggregate, qkv, self.grid_size, prefix)
        return torch.cat([qkv[:, :prefix], near[:, prefix:]], dim=1)
