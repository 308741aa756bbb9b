"""Agent attention, arXiv:2312.08874: agent by agent and query by query, with the biases interpolated by hand."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """softmax(q_i·a + B₂) softmax(a·k_j + B₁) v_j [+ DWC(v)_i], a the mean query of a cell of the grid."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        q, k, v = (heads_of(rows, module.num_heads) for rows in (queries, keys, values))
        parts = [[n for n in part if n in there] for part in _parts(module)]
        taking_part = [a for a, part in enumerate(parts) if part] or list(range(len(parts)))
        heads = []
        for h in range(module.num_heads):
            agents = [sum(q[h][n] for n in part) / len(part) if part else 0 * q[h][0] for part in parts]
            gathered = {}
            for a in taking_part:
                biases = [_position_bias(module, 0, h, a, j) for j in there]
                gathered[a] = _attend(agents[a], [k[h][j] for j in there], [v[h][j] for j in there], biases)
            rows = []
            for i, query in enumerate(q[h]):
                biases = [_position_bias(module, 1, h, a, i) for a in taking_part]
                rows.append(_attend(query, [agents[a] for a in taking_part], list(gathered.values()), biases))
            heads.append(torch.stack(rows))
        out = torch.cat(heads, dim=1)
        if module.conv is not None:
            out = out + convolved(module, module.conv, values, there)
        images.append(affine(module.proj, out))
    return torch.stack(images)


def _attend(query: Tensor, keys: list[Tensor], values: list[Tensor], biases: list[Tensor | float]) -> Tensor:
    logits = [torch.dot(query, key) / math.sqrt(len(key)) + bias for key, bias in zip(keys, biases, strict=True)]
    weights = [torch.exp(logit) for logit in logits]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def _parts(module: nn.Module) -> list[list[int]]:
    """The tokens averaged by each agent: cells of the grid from a floor to a ceiling."""
    (rows, columns), prefix = module.grid_size, module.num_prefix_tokens
    side = module.pool.side
    return [
        [
            prefix + row * columns + column
            for row in range(i * rows // side, -(-(i + 1) * rows // side))
            for column in range(j * columns // side, -(-(j + 1) * columns // side))
        ]
        for i in range(side)
        for j in range(side)
    ]


def _position_bias(module: nn.Module, which: int, head: int, agent: int, token: int) -> Tensor | float:
    if module.position_bias is None:
        return 0.0
    biases, place = module.position_bias, (which, head, agent)
    if token < module.num_prefix_tokens:
        return biases.prefix[place][0]
    rows, columns = module.grid_size
    row, column = divmod(token - module.num_prefix_tokens, columns)
    total = biases.rows[place][row] + biases.columns[place][column]
    for r, weight in _between(row, rows):
        for c, other in _between(column, columns):
            total = total + weight * other * biases.map[place][r, c]
    return total


def _between(index: int, size: int) -> list[tuple[int, float]]:
    """The two of seven cells whose centres enclose that of cell `index` of `size`, and their weights."""
    centre = min(max((index + 0.5) * 7 / size - 0.5, 0.0), 6.0)
    low = min(int(centre), 5)
    return [(low, 1 - (centre - low)), (low + 1, centre - low)]
