"""Ye et al., arXiv:2410.05258, with whole N×N maps, one head of the difference at a time."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """(1 − λ_init) RMSNorm((A₁ − λ A₂) V), where the maps 2i and 2i + 1 make head i."""
    pairs = module.num_heads // 2 if module.num_heads % 2 == 0 else module.num_heads
    one, two = (_exp_dot(module.lambda_q[i], module.lambda_k[i]) for i in (0, 1))
    lam = one - two + module.lambda_init
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = affine(module.qkv, x[b]).chunk(3, dim=1)
        q, k, v = heads_of(q, 2 * pairs), heads_of(k, 2 * pairs), heads_of(v, pairs)
        heads = []
        for i in range(pairs):
            maps = []
            for m in (2 * i, 2 * i + 1):
                weights = torch.exp(q[m] @ k[m][there].T / math.sqrt(q[m].shape[1]))
                maps.append(weights / weights.sum(dim=1, keepdim=True))
            head = (maps[0] - lam * maps[1]) @ v[i][there]
            rms = torch.sqrt((head**2).mean(dim=1, keepdim=True) + 1e-5)
            heads.append((1 - module.lambda_init) * module.norm.weight * head / rms)
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)


def _exp_dot(a: Tensor, b: Tensor) -> Tensor:
    """exp(a·b)."""
    return torch.exp(sum(p * q for p, q in zip(a, b, strict=True)))
