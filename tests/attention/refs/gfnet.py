"""GFNet, arXiv:2107.00645: the circular convolution equivalent to the filter, patch by patch."""

import math

import torch
from torch import Tensor, nn

from . import kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ over patches of the kernel at their cyclic distance, times the patch; 0 for prefix tokens."""
    (rows, columns), prefix = module.grid_size, module.num_prefix_tokens
    kernel = [[_kernel(module, down, right) for right in range(columns)] for down in range(rows)]
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        out = [torch.zeros_like(x[b, 0])] * prefix
        for n in range(rows * columns):
            row, column = divmod(n, columns)
            total = torch.zeros_like(x[b, 0])
            for m in range(rows * columns):
                if prefix + m in there:
                    other_row, other_column = divmod(m, columns)
                    total = total + kernel[row - other_row][column - other_column] * x[b, prefix + m]
            out.append(total)
        images.append(torch.stack(out))
    return torch.stack(images)


def _kernel(module: nn.Module, down: int, right: int) -> Tensor:
    """The inverse transform of the filter at one position, [C].

    The real signal has the frequencies that the filter does not hold as conjugates of those it holds: each of its
    columns counts twice, but the first, and the last of an even number, which are their own conjugates.
    """
    rows, columns = module.grid_size
    total = torch.zeros_like(module.filter[0, 0, :, 0])
    for u in range(rows):
        for w in range(columns // 2 + 1):
            angle = 2 * math.pi * (u * down / rows + w * right / columns)
            real, imaginary = module.filter[u, w].unbind(-1)
            times = 1 if w in (0, columns / 2) else 2
            total = total + times * (real * math.cos(angle) - imaginary * math.sin(angle))
    return total / (rows * columns)
