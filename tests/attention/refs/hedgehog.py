"""Hedgehog, arXiv:2402.04347, with the whole N×N matrix of kernel values."""

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j φ(q_i)·φ'(k_j) v_j / Σ_j φ(q_i)·φ'(k_j), φ(x) = [softmax(W x), softmax(−W x)]."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            phi_q = [_features(query @ module.query_map[h]) for query in q[h]]
            phi_k = [_features(k[h][j] @ module.key_map[h]) for j in there]
            kernel = torch.stack([torch.stack([torch.dot(one, other) for other in phi_k]) for one in phi_q])
            heads.append(kernel / kernel.sum(dim=1, keepdim=True) @ v[h][there])
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)


def _features(x: Tensor) -> Tensor:
    return torch.cat([signed.exp() / signed.exp().sum() for signed in (x, -x)])
