"""Bolya et al., arXiv:2209.07484: every channel as a head of width 1, with its own N×N map of products."""

import torch
from torch import Tensor, nn

from . import affine, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Channel c of token i is Σ_j (q̂_ic k̂_jc) v_jc."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = affine(module.qkv, x[b]).chunk(3, dim=1)
        q = torch.stack([row / torch.sqrt(row @ row) for row in q])
        k = torch.stack([row / torch.sqrt(row @ row) for row in k])
        channels = [torch.outer(q[:, c], k[there, c]) @ v[there, c] for c in range(x.shape[2])]
        images.append(affine(module.proj, torch.stack(channels, dim=1)))
    return torch.stack(images)
