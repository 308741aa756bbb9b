"""InLine attention, arXiv:2412.06590: the N×N matrix of scores, shifted row by row; the local residual tap by tap."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j (φ(q_i)·k_j − mean_j φ(q_i)·k_j + 1/N) v_j, φ(q) = q / (N √d), N the tokens that take part."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            rows = []
            for query in q[h]:
                phi = query / (len(there) * math.sqrt(len(query)))
                scores = [torch.dot(phi, k[h][j]) for j in there]
                shift = (1 - sum(scores)) / len(there)
                rows.append(sum((score + shift) * v[h][j] for score, j in zip(scores, there, strict=True)))
            heads.append(torch.stack(rows))
        merged = torch.cat(heads, dim=1)
        if module.local is not None:
            merged = merged + _local_residual(module, x[b], torch.cat(v, dim=1), there)
        images.append(affine(module.proj, merged))
    return torch.stack(images)


def _local_residual(module: nn.Module, x: Tensor, v: Tensor, there: list[int]) -> Tensor:
    """Σ_r w_r ⊙ v_n+r over the neighbouring patches that exist and take part, [N, C]; 0 for prefix tokens."""
    first, _, second = module.local
    mean = sum(x[j] for j in there) / len(there)
    weights = []
    for h in range(module.num_heads):
        hidden = _part(first, h, module.num_heads) @ _slice(mean, h, module.num_heads)
        hidden = hidden + _slice(first.bias, h, module.num_heads)
        active = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        weights.append(_part(second, h, module.num_heads) @ active + _slice(second.bias, h, module.num_heads))
    weights = torch.cat(weights).reshape(-1, 3, 3)
    (rows, columns), prefix = module.grid_size, module.num_prefix_tokens
    out = [torch.zeros_like(v[0]) for _ in range(prefix)]
    for n in range(rows * columns):
        row, column = divmod(n, columns)
        total = torch.zeros_like(v[0])
        for r in range(max(row - 1, 0), min(row + 2, rows)):
            for c in range(max(column - 1, 0), min(column + 2, columns)):
                if prefix + r * columns + c in there:
                    total = total + weights[:, r - row + 1, c - column + 1] * v[prefix + r * columns + c]
        out.append(total)
    return torch.stack(out)


def _part(layer: nn.Conv1d, head: int, heads: int) -> Tensor:
    """The matrix that a convolution of width 1 applies to the channels of one head."""
    return _slice(layer.weight[:, :, 0], head, heads)


def _slice(rows: Tensor, head: int, heads: int) -> Tensor:
    size = len(rows) // heads
    return rows[head * size : (head + 1) * size]
