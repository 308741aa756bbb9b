"""Zhai et al., arXiv:2105.14103, equation 2 (AFT-full), pair by pair."""

import torch
from torch import Tensor, nn

from . import affine, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """σ(q_i) ⊙ Σ_j exp(k_j + w_ij) ⊙ v_j / Σ_j exp(k_j + w_ij)."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = affine(module.qkv, x[b]).chunk(3, dim=1)
        rows = []
        for i, query in enumerate(q):
            weights = {j: torch.exp(k[j] + _position_bias(module, i, j)) for j in there}
            mean = sum(weights[j] * v[j] for j in there) / sum(weights.values())
            rows.append(mean / (1 + torch.exp(-query)))
        images.append(affine(module.proj, torch.stack(rows)))
    return torch.stack(images)


def _position_bias(module: nn.Module, i: int, j: int) -> Tensor:
    if module.rank is None:
        return module.position_bias[i, j]
    return torch.dot(module.query_position[i], module.key_position[j])
