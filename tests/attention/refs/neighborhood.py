"""Neighborhood attention, arXiv:2204.07143 and 2209.15001: patch by patch, with the neighbours sought by distance."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """softmax over the neighbours of q·k/√d [+ B] of v [+ DWC(v)]; over all tokens for a prefix token."""
    prefix, tokens = module.num_prefix_tokens, x.shape[1]
    seen = [_neighbours(module, n) if n >= prefix else list(range(tokens)) for n in range(tokens)]
    images = []
    for b in range(x.shape[0]):
        there = kept(tokens, keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        q, k, v = (heads_of(rows, module.num_heads) for rows in (queries, keys, values))
        heads = []
        for h in range(module.num_heads):
            rows = []
            for n, query in enumerate(q[h]):
                # If all are hidden, so is the patch itself, which is not compared then.
                visible = [m for m in seen[n] if m in there] or seen[n]
                logits = [torch.dot(query, k[h][m]) / math.sqrt(len(query)) + _bias(module, h, n, m) for m in visible]
                weights = torch.stack(logits).exp()
                rows.append(weights / weights.sum() @ torch.stack([v[h][m] for m in visible]))
            heads.append(torch.stack(rows))
        out = torch.cat(heads, dim=1)
        if module.conv is not None:
            out = out + convolved(module, module.conv, values, there)
        images.append(affine(module.proj, out))
    return torch.stack(images)


def _neighbours(module: nn.Module, token: int) -> list[int]:
    (rows, columns), prefix = module.grid_size, module.num_prefix_tokens
    row, column = divmod(token - prefix, columns)
    return [prefix + r * columns + c for r in _along(module, row, rows) for c in _along(module, column, columns)]


def _along(module: nn.Module, place: int, size: int) -> list[int]:
    """Of all runs of w places, a multiple of δ away and δ apart, the one whose middle is nearest."""
    reachable = [other for other in range(size) if (other - place) % module.dilation == 0]
    width = min(module.window, len(reachable))
    runs = [reachable[start : start + width] for start in range(len(reachable) - width + 1)]
    if width < module.window:
        return runs[0]
    return min(runs, key=lambda run: abs(run[width // 2] - place))


def _bias(module: nn.Module, head: int, query: int, key: int) -> Tensor | float:
    if module.position_bias is None or query < module.num_prefix_tokens:
        return 0.0
    columns, prefix = module.grid_size[1], module.num_prefix_tokens
    places = zip(divmod(key - prefix, columns), divmod(query - prefix, columns), strict=True)
    down, right = ((k - q) // module.dilation + module.window - 1 for k, q in places)
    return module.position_bias[head, down, right]
