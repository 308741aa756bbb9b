"""Performer, arXiv:2009.14794: the whole N×N matrix of φ(q_i)·φ(k_j), feature by feature, unshifted."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j), φ(x) = exp(ω x̃ − ‖x̃‖²/2) / √m."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            seen = [_phi(k[h][j], module.features[h]) for j in there]
            rows = []
            for query in q[h]:
                kernel = [torch.dot(_phi(query, module.features[h]), key) for key in seen]
                rows.append(sum(weight * v[h][j] for weight, j in zip(kernel, there, strict=True)) / sum(kernel))
            heads.append(torch.stack(rows))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)


def _phi(x: Tensor, features: Tensor) -> Tensor:
    x = x / len(x) ** 0.25
    return torch.stack([torch.exp(torch.dot(w, x) - torch.dot(x, x) / 2) for w in features]) / math.sqrt(len(features))
