"""Qiu et al., arXiv:2505.06708, the element-wise gate G1, with the whole N×N map."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_o (softmax attention ⊙ σ(W_g x)), head by head."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        gates = heads_of(1 / (1 + torch.exp(-affine(module.gate, x[b]))), module.num_heads)
        heads = []
        for h in range(module.num_heads):
            weights = torch.exp(q[h] @ k[h][there].T / math.sqrt(q[h].shape[1]))
            heads.append(gates[h] * (weights @ v[h][there]) / weights.sum(dim=1, keepdim=True))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)
