"""PolaFormer, arXiv:2501.15061: pair by pair, each sum over tokens written out."""

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """The average of each half of the values, by equal and opposite signs, [+ DWC(v)], times G."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        if module.positions is not None:
            keys = torch.stack([key + place for key, place in zip(keys, module.positions.table, strict=True)])
        if module.channel_scale is not None:
            scale = torch.log(1 + torch.exp(module.channel_scale))
            queries, keys = torch.stack([row / scale for row in queries]), torch.stack([row / scale for row in keys])
        q, k, v = (heads_of(rows, module.num_heads) for rows in (queries, keys, values))
        heads = []
        for h in range(module.num_heads):
            power = 1 + module.alpha / (1 + torch.exp(-module.power[h, 0]))
            half = v[h].shape[1] // 2
            keys = {j: (_power(k[h][j], power), _power(-k[h][j], power)) for j in there}
            rows = []
            for query in q[h]:
                plus, minus = _power(query, power), _power(-query, power)
                same = {j: torch.dot(plus, keys[j][0]) + torch.dot(minus, keys[j][1]) for j in there}
                opposite = {j: torch.dot(plus, keys[j][1]) + torch.dot(minus, keys[j][0]) for j in there}
                rows.append(torch.cat([_average(same, v[h][:, :half]), _average(opposite, v[h][:, half:])]))
            head = torch.stack(rows)
            heads.append(head if module.conv is None else head + convolved(module, module.conv, v[h], there))
        images.append(affine(module.proj, torch.cat(heads, dim=1) * affine(module.gate, x[b])))
    return torch.stack(images)


def _power(x: Tensor, power: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0) ** power


def _average(weights: dict[int, Tensor], values: Tensor) -> Tensor:
    total = sum(weights.values())
    if not total > 0:
        return torch.zeros_like(values[0])
    return sum(weight * values[j] for j, weight in weights.items()) / total
