"""Qin et al., arXiv:2202.08791, with the whole N×N matrix of cosines."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """s_ij = ReLU(q_i)·ReLU(k_j) cos(π (i − j) / 2M), normalised by its row; i, j and M count only the kept tokens."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            rows = [torch.zeros_like(v[h][0])] * x.shape[1]
            for i, token in enumerate(there):
                query = torch.where(q[h][token] > 0, q[h][token], 0)
                weights = []
                for j, other in enumerate(there):
                    key = torch.where(k[h][other] > 0, k[h][other], 0)
                    weights.append(torch.dot(query, key) * math.cos(math.pi / 2 * (i - j) / len(there)))
                if sum(weights) > 0:
                    mean = sum(weight * v[h][other] for weight, other in zip(weights, there, strict=True))
                    rows[token] = mean / sum(weights)
            heads.append(torch.stack(rows))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)
