"""FLatten, arXiv:2308.00442: the whole N×N matrix of kernel values."""

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j) + DWC(v)_i, φ = f(ReLU / s), f(x) = ‖x‖ x^p / ‖x^p‖."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        if module.positions is not None:
            keys = torch.stack([key + place for key, place in zip(keys, module.positions.table, strict=True)])
        phi_q, phi_k = (heads_of(_features(module, rows), module.num_heads) for rows in (queries, keys))
        v = heads_of(values, module.num_heads)
        heads = []
        for h in range(module.num_heads):
            rows = []
            for query in phi_q[h]:
                kernel = {j: torch.dot(query, phi_k[h][j]) for j in there}
                total = sum(kernel.values())
                rows.append(sum(kernel[j] * v[h][j] for j in there) / total if total > 0 else torch.zeros_like(query))
            head = torch.stack(rows)
            heads.append(head if module.conv is None else head + convolved(module, module.conv, v[h], there))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)


def _features(module: nn.Module, rows: Tensor) -> Tensor:
    """φ of each token, [N, C]: sharpened per head, or over all heads."""
    scale = torch.ones_like(rows[0])
    if module.channel_scale is not None:
        scale = torch.log(1 + torch.exp(module.channel_scale))
    parts = module.num_heads if module.norm == "head" else 1
    return torch.stack(
        [
            torch.cat([_sharpened(part / s, module.focusing_factor) for part, s in _pairs(row, scale, parts)])
            for row in rows
        ]
    )


def _pairs(row: Tensor, scale: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(row.chunk(parts), scale.chunk(parts), strict=True))


def _sharpened(x: Tensor, power: float) -> Tensor:
    x = torch.where(x > 0, x, 0)
    if not x.any():
        return x
    powered = x**power
    return powered * torch.sqrt((x**2).sum()) / torch.sqrt((powered**2).sum())
