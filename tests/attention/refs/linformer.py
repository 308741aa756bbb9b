"""Linformer, arXiv:2006.04768, equation 7: the k rows of keys and values summed token by token, query by query."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_r softmax_r(q_i · (E K)_r / √d) (F V)_r, with the columns of absent tokens left out of E and F."""
    e, f = module.key_projection.weight, module.value_projection.weight
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            keys = [sum(row[j] * k[h][j] for j in there) for row in e]
            values = [sum(row[j] * v[h][j] for j in there) for row in f]
            rows = []
            for query in q[h]:
                logits = [torch.dot(query, key) / math.sqrt(len(query)) for key in keys]
                weights = [torch.exp(logit - max(logits)) for logit in logits]
                rows.append(sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights))
            heads.append(torch.stack(rows))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)
