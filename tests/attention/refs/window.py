"""Swin, arXiv:2103.14030: the window of each patch by its row and column, without rolling or padding."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """A patch attends to the tokens of its window, a prefix token to all."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            rows = []
            for i, query in enumerate(q[h]):
                seen = [j for j in there if i < module.num_prefix_tokens or _window(module, j) == _window(module, i)]
                weights = [
                    torch.exp(torch.dot(query, k[h][j]) / math.sqrt(len(query)) + _bias(module, h, i, j)) for j in seen
                ]
                mean = sum((w * v[h][j] for w, j in zip(weights, seen, strict=True)), torch.zeros_like(query))
                rows.append(mean / sum(weights) if seen else mean)
            heads.append(torch.stack(rows))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)


def _place(module: nn.Module, token: int) -> tuple[int, int] | None:
    if token < module.num_prefix_tokens:
        return None
    return divmod(token - module.num_prefix_tokens, module.grid_size[1])


def _window(module: nn.Module, token: int) -> tuple[int, int] | None:
    """The window of a patch, counted from the first border after the grid's edge; None for a prefix token."""
    place = _place(module, token)
    if place is None:
        return None
    numbers = []
    for index, size in zip(place, module.grid_size, strict=True):
        moves = size > module.window and module.block_index % 2 == 1
        shift = module.window // 2 if moves else 0
        numbers.append(math.floor((index - shift) / module.window))
    return numbers[0], numbers[1]


def _bias(module: nn.Module, head: int, query: int, key: int) -> Tensor | float:
    if module.position_bias is None or query < module.num_prefix_tokens:
        return 0.0
    (row, column), (other_row, other_column) = _place(module, query), _place(module, key)
    centre = module.window - 1
    return module.position_bias[head, row - other_row + centre, column - other_column + centre]
