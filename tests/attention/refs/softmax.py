"""Vaswani et al., arXiv:1706.03762, equation 1, with the whole N×N matrix."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, kept, turned_product


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d) v, of turned q and k if the module rotates, mixed between heads if they talk, [+ DWC(v)]."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        width = module.head_dim
        shared = [width * part for part in (module.num_heads, module.kv_heads, module.kv_heads)]
        queries, keys, values = affine(module.qkv, x[b]).split(shared, dim=1)
        q, k, v = (rows.split(width, dim=1) for rows in (queries, keys, values))
        k, v = ([part[h * len(part) // len(q)] for h in range(len(q))] for part in (k, v))
        scores = []
        for h in range(module.num_heads):
            one, other = _layer_norm(module.q_norm, q[h]), _layer_norm(module.k_norm, k[h])
            if module.rotary:
                pairs = [
                    torch.stack([turned_product(module, query, i, other[j], j, 100, inclusive=False) for j in there])
                    for i, query in enumerate(one)
                ]
                products = torch.stack(pairs)
            else:
                products = one @ other[there].T
            scores.append(products / math.sqrt(width))
        if module.mix_logits is not None:
            scores = _mixed(module.mix_logits, scores)
        maps = [torch.exp(score) / torch.exp(score).sum(dim=1, keepdim=True) for score in scores]
        if module.mix_weights is not None:
            maps = _mixed(module.mix_weights, maps)
        out = torch.cat([weights @ value[there] for weights, value in zip(maps, v, strict=True)], dim=1)
        if module.conv is not None:
            out = out + convolved(module, module.conv, torch.cat(v, dim=1), there)
        images.append(affine(module.proj, out))
    return torch.stack(images)


def _mixed(layer: nn.Linear, maps: list[Tensor]) -> list[Tensor]:
    """Each new map a sum of the old ones."""
    return [sum(weight * old for weight, old in zip(row, maps, strict=True)) for row in layer.weight]


def _layer_norm(norm: nn.Module, rows: Tensor) -> Tensor:
    if isinstance(norm, nn.Identity):
        return rows
    centred = rows - rows.mean(dim=1, keepdim=True)
    variance = (centred**2).mean(dim=1, keepdim=True)
    return centred / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias
