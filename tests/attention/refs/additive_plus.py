"""Additive attention over regions, token by token and region by region."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_t (g ⊙ v + DWC(v)) + q, or with gate="residual" (1 + g) ⊙ v, and without residual no q."""
    regions = _regions(module, x.shape[1])
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys = affine(module.q, x[b]), affine(module.k, x[b])
        values = queries if module.v is None else affine(module.v, x[b])
        q, k, v = (heads_of(rows, module.num_heads) for rows in (queries, keys, values))
        heads = []
        for h in range(module.num_heads):
            context = _context(module.query_logit[h], module.query_mix, h, q[h], regions, there)
            p = [row * key for row, key in zip(context, k[h], strict=True)]
            gates = _context(module.key_logit[h], module.key_mix, h, p, regions, there)
            one = 1.0 if module.gate == "residual" else 0.0
            heads.append(torch.stack([(one + gate) * value for gate, value in zip(gates, v[h], strict=True)]))
        out = torch.cat(heads, dim=1)
        if module.conv is not None:
            out = out + convolved(module, module.conv, values, there)
        out = affine(module.transform, out)
        images.append(out + queries if module.residual else out)
    return torch.stack(images)


def _regions(module: nn.Module, tokens: int) -> list[list[int]]:
    """The tokens of each region: all prefix tokens, and a cell of the grid from a floor to a ceiling."""
    (rows, columns), prefix, side = module.grid_size, module.num_prefix_tokens, module.regions.side
    found = []
    for i in range(side):
        for j in range(side):
            cell = [
                prefix + row * columns + column
                for row in range(math.floor(i * rows / side), math.ceil((i + 1) * rows / side))
                for column in range(math.floor(j * columns / side), math.ceil((j + 1) * columns / side))
            ]
            found.append([*range(prefix), *cell])
    return found


def _context(logit, mix, head, tokens, regions, there):
    pooled = []
    for region in regions:
        seen = [n for n in region if n in there]
        shares = [torch.exp(torch.dot(logit, tokens[n]) / math.sqrt(len(logit))) for n in seen]
        parts = [share * tokens[n] for share, n in zip(shares, seen, strict=True)]
        pooled.append(sum(parts) / sum(shares) if seen else torch.zeros_like(tokens[0]))
    if mix is not None:
        pooled = [sum(mix[head, r, s] * pooled[s] for s in range(len(regions))) for r in range(len(regions))]
    rows = []
    for n in range(len(tokens)):
        mine = [r for r, region in enumerate(regions) if n in region]
        rows.append(sum(pooled[r] for r in mine) / len(mine))
    return rows
