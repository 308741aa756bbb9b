"""PoolFormer, arXiv:2111.11418, equation 4, patch by patch."""

import torch
from torch import Tensor, nn

from . import kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """The mean over the 3×3 neighbours that exist and take part, minus the patch; 0 for prefix tokens."""
    (rows, columns), prefix = module.grid_size, module.num_prefix_tokens
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        out = [0 * token for token in x[b, :prefix]]
        for row in range(rows):
            for column in range(columns):
                around = [
                    x[b, prefix + r * columns + c]
                    for r in range(max(row - 1, 0), min(row + 2, rows))
                    for c in range(max(column - 1, 0), min(column + 2, columns))
                    if prefix + r * columns + c in there
                ]
                mean = sum(around) / len(around) if around else 0
                out.append(mean - x[b, prefix + row * columns + column])
        images.append(torch.stack(out))
    return torch.stack(images)
