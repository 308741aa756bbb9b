"""ReLU linear attention: a ReLU as the kernel's feature map.

Source: Cai et al., "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
arXiv:2205.14756.

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / (φ(q_n) Σ_m φ(k_m)) [+ DWC(v)_n],      φ = ReLU

A query that meets no key, its features being 0 or orthogonal to all of theirs, gets 0. DWC is a depth-wise w×w
convolution with a bias over the patches; prefix tokens are left out of it, and a hidden patch is zero to it, as the
border is. It is the add-on with which later papers compare linear kernels. EfficientViT itself restores locality by
other means, in parts of its backbone: aggregated queries, keys and values, and convolutions in the feed-forward part.

Cost: O(N·D·d) besides the four projections; DWC adds O(N·D·w²).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import convolve_patches, kernel_average
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("relu_linear")
class ReluLinear(Projected):
    """Linear attention with φ = ReLU. Arguments as for `Projected`, `attn_drop` falls on φ(k), and:

    Args:
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. It needs the grid of the patches.

    Raises:
        ValueError: `conv` is even or negative; tokens do not fill the grid that the convolution needs; a mask between
            pairs of tokens, or causality, is asked for.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        if conv < 0 or (conv and conv % 2 == 0):
            raise ValueError(f"relu_linear: conv={conv} has no centre; take an odd width, or 0 for none")
        factory = dict(device=device, dtype=dtype)
        self.conv = nn.Conv2d(dim, dim, conv, padding=conv // 2, groups=dim, **factory) if conv else None
        self.needs_grid = conv > 0

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        q_bnc, k_bnc = F.relu(q_bnc), F.relu(k_bnc)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
            presence_bn1 = bias.exp().transpose(1, 2)
            k_bnc = k_bnc * presence_bn1
        q, k, v = (self.split_heads(t) for t in (q_bnc, self.attn_drop(k_bnc), v_bnc))
        out = self.merge_heads(kernel_average(q, k, v))
        if self.conv is not None:
            v_bnc = v_bnc if bias is None else v_bnc * presence_bn1
            out = out + convolve_patches(self.conv, v_bnc, self.grid_size, self.num_prefix_tokens)
        return self.proj_drop(self.proj(out))
