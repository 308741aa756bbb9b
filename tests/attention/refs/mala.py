"""MALA, arXiv:2507.00698: the whole N×N matrix of scores β φ(q_i)·φ(k_j) − γ."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j (β_i κ_ij − γ_i) v_j, κ = φ(q)·φ(k) / (N √d), z = Σ_j κ_ij, β = 1 + 1/z, γ = z/N, φ = elu + 1."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            factor = 1 / (len(there) * math.sqrt(q[h].shape[1]))
            rows = []
            for query in q[h]:
                kernel = [factor * torch.dot(_elu_plus_one(query), _elu_plus_one(k[h][j])) for j in there]
                z = sum(kernel)
                beta, gamma = 1 + 1 / z, z / len(there)
                rows.append(sum((beta * value - gamma) * v[h][j] for value, j in zip(kernel, there, strict=True)))
            heads.append(torch.stack(rows))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)


def _elu_plus_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0)))
