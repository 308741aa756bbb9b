"""Vaswani et al., arXiv:1706.03762, equation 1, with the whole N×N matrix."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d) v."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            queries, keys = _layer_norm(module.q_norm, q[h]), _layer_norm(module.k_norm, k[h])
            scores = torch.exp(queries @ keys[there].T / math.sqrt(queries.shape[1]))
            heads.append(scores @ v[h][there] / scores.sum(dim=1, keepdim=True))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)


def _layer_norm(norm: nn.Module, rows: Tensor) -> Tensor:
    if isinstance(norm, nn.Identity):
        return rows
    centred = rows - rows.mean(dim=1, keepdim=True)
    variance = (centred**2).mean(dim=1, keepdim=True)
    return centred / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias
