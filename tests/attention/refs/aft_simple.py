"""Zhai et al., arXiv:2105.14103, AFT-simple, token by token."""

import torch
from torch import Tensor, nn

from . import affine, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """σ(q_i) ⊙ Σ_j exp(k_j) ⊙ v_j / Σ_j exp(k_j)."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = affine(module.qkv, x[b]).chunk(3, dim=1)
        mean = sum(torch.exp(k[j]) * v[j] for j in there) / sum(torch.exp(k[j]) for j in there)
        images.append(affine(module.proj, torch.stack([mean / (1 + torch.exp(-query)) for query in q])))
    return torch.stack(images)
