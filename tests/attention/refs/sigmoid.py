"""Ramapuram et al., arXiv:2409.04431, pair of tokens by pair of tokens."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j v_j / (1 + exp(−(q_i·k_j/√d − ln n))) over the n tokens that take part."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            root = math.sqrt(q[h].shape[1])
            rows = []
            for query in q[h]:
                logits = [torch.dot(query, k[h][j]) / root - math.log(len(there)) for j in there]
                rows.append(sum(v[h][j] / (1 + torch.exp(-logit)) for logit, j in zip(logits, there, strict=True)))
            heads.append(torch.stack(rows))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)
