"""ReLU linear attention: linear attention with ReLU as the feature map.

Source: Cai et al., "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
arXiv:2205.14756.

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / (φ(q_n) Σ_m φ(k_m)) [+ DWC(v)_n],      φ = ReLU

A query whose features are orthogonal to those of all keys gets 0. There are two optional add-ons on the patches, to
which a hidden patch is zero, like the border. EfficientViT aggregates the queries, keys and values of nearby patches
by a depth-wise w×w convolution and a 1×1 convolution per head, both without bias, and attends among these as well: the
number of heads doubles, and the output projection reads them all. Prefix tokens are not aggregated. DWC is a depth-wise
w×w convolution with bias, without the prefix tokens, which later papers add to the linear baselines they compare with.

Cost: O(N·D·d) besides the four projections; DWC adds O(N·D·w²), the aggregation twice the kernel, O(N·D·(w² + d)) and a
fifth projection.

Value convolution: converted DINOv3 on Cityscapes 65.17 to 71.82 mIoU (arXiv:2603.16063).

Family: linear.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import convolve_patches, depthwise, kernel_average
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("relu_linear")
class ReLULinearAttention(Projected):
    """Linear attention with φ = ReLU. Other arguments as for `Projected`; `attn_drop` applies to φ(k).

    Args:
        aggregate: width w of the aggregation of queries, keys and values, odd; 0 for none. Needs the grid.
    """

    adds_conv = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        proj_bias: bool = True,
        aggregate: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_bias=proj_bias, **shared)
        near = depthwise("relu_linear: aggregate", 3 * dim, aggregate, bias=False, **self.factory)
        if near is None:
            self.aggregate = None
        else:
            within_heads = nn.Conv2d(3 * dim, 3 * dim, 1, groups=3 * num_heads, bias=False, **self.factory)
            self.aggregate = nn.Sequential(near, within_heads)
            self.proj = nn.Linear(2 * dim, dim, bias=proj_bias, **self.factory)
        self.needs_grid = self.needs_grid or aggregate > 0

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        factor_bn1 = self.mask_factor(attn_mask, x)
        factor_bn1 = 1 if factor_bn1 is None else factor_bn1
        qkv = self.qkv(x)
        v = self.split_heads(qkv.chunk(3, dim=-1)[2])
        out = self.merge_heads(self.add_conv(self._attend(qkv, factor_bn1), v, attn_mask))
        if self.aggregate is not None:
            near = self._attend(self._aggregate(qkv * factor_bn1), factor_bn1)
            out = torch.cat([out, self.merge_heads(near)], dim=-1)
        return self.proj_drop(self.proj(out))

    def _attend(self, qkv: Tensor, factor_bn1: Tensor | int) -> Tensor:
        """[B, N, 3C] -> [B, H, N, d]."""
        q, k, v = qkv.chunk(3, dim=-1)
        k = self.attn_drop(F.relu(k) * factor_bn1)
        return kernel_average(*(self.split_heads(t) for t in (F.relu(q), k, v)))

    def _aggregate(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values aggregated over each patch's neighbourhood, [B, N, 3C] -> [B, N, 3C]."""
        prefix = self.num_prefix_tokens
        near = convolve_patches(self.aggregate, qkv, self.grid_size, prefix)
        return torch.cat([qkv[:, :prefix], near[:, prefix:]], dim=1)
