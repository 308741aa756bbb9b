"""Shen et al., arXiv:1812.01243, with the N×N map that the mechanism never builds."""

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """(softmax over channels of Q)(softmax over tokens of K)ᵀ V, head by head."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            queries, keys = torch.exp(q[h]), torch.exp(k[h][there])
            queries = torch.stack([row / row.sum() for row in queries])
            keys = torch.stack([column / column.sum() for column in keys.T])
            heads.append((queries @ keys) @ v[h][there])
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)
