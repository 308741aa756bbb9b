"""Katharopoulos et al., arXiv:2006.16236, equation 5, with the whole N×N matrix of kernel values."""

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j), φ = elu + 1."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            kernel = _elu_plus_one(q[h]) @ _elu_plus_one(k[h][there]).T
            heads.append(kernel / kernel.sum(dim=1, keepdim=True) @ v[h][there])
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)


def _elu_plus_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0)))
