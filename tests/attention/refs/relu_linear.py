"""Cai et al., arXiv:2205.14756: the whole N×N matrix of kernel values."""

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j) + DWC(v)_i, φ = ReLU; then the same for the aggregated."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        projected = affine(module.qkv, x[b])
        out = _attend(module, projected, there)
        if module.conv is not None:
            values = projected[:, 2 * x.shape[2] :]
            out = out + convolved(module, module.conv, values, there)
        if module.aggregate is not None:
            out = torch.cat([out, _attend(module, _aggregated(module, projected, there), there)], dim=1)
        images.append(affine(module.proj, out))
    return torch.stack(images)


def _attend(module: nn.Module, projected: Tensor, there: list[int]) -> Tensor:
    """[N, 3C] -> [N, C]."""
    q, k, v = (heads_of(rows, module.num_heads) for rows in projected.chunk(3, dim=1))
    heads = []
    for h in range(module.num_heads):
        rows = []
        for query in q[h]:
            kernel = [sum(a * c for a, c in zip(query, k[h][j], strict=True) if a > 0 and c > 0) for j in there]
            total = sum(kernel)
            mean = sum(weight * v[h][j] for weight, j in zip(kernel, there, strict=True))
            rows.append(mean / total if total > 0 else torch.zeros_like(query))
        heads.append(torch.stack(rows))
    return torch.cat(heads, dim=1)


def _aggregated(module: nn.Module, projected: Tensor, there: list[int]) -> Tensor:
    """Each patch's neighbours gathered channel by channel, then mapped head by head; prefix tokens unchanged."""
    near, within = module.aggregate
    gathered = convolved(module, near, projected, there)
    maps = within.weight[:, :, 0, 0].chunk(3 * module.num_heads)
    rows = list(projected[: module.num_prefix_tokens])
    for patch in gathered[module.num_prefix_tokens :]:
        parts = patch.chunk(len(maps))
        rows.append(torch.cat([matrix @ part for matrix, part in zip(maps, parts, strict=True)]))
    return torch.stack(rows)
