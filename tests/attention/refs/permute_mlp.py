"""Vision Permutator, arXiv:2106.12368: each product of a weight and a patch separately."""

import math

import torch
from torch import Tensor, nn

from . import affine, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_o of the three branches, weighted by a softmax over them; 0 for prefix tokens."""
    (rows, columns), prefix = module.grid_size, module.num_prefix_tokens
    images = []
    for b in range(x.shape[0]):
        there = [n - prefix for n in kept(x.shape[1], keep, b) if n >= prefix]
        patches = [x[b, prefix + n] if n in there else torch.zeros_like(x[b, 0]) for n in range(rows * columns)]
        h, w, c = [], [], []
        for n in range(rows * columns):
            row, column = divmod(n, columns)
            h.append(_along(module, module.mlp_h, row, [patches[r * columns + column] for r in range(rows)]))
            w.append(_along(module, module.mlp_w, column, [patches[row * columns + r] for r in range(columns)]))
            c.append(affine(module.mlp_c, patches[n]))
        mean = sum((h[n] + w[n] + c[n] for n in there), torch.zeros_like(x[b, 0])) / max(len(there), 1)
        first, _, second = module.reweight
        hidden = affine(first, mean)
        logits = affine(second, hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2).reshape(-1, 3)
        weights = (torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)).T
        out = [torch.zeros_like(x[b, 0])] * prefix
        for branches in zip(h, w, c, strict=True):
            mixed = sum(weight * branch for weight, branch in zip(weights, branches, strict=True))
            out.append(affine(module.proj, mixed))
        images.append(torch.stack(out))
    return torch.stack(images)


def _along(module: nn.Module, linear: nn.Linear, place: int, line: list[Tensor]) -> Tensor:
    """The output at one position of a line of patches, segment by segment."""
    width = module.segment_dim
    mine = slice(place * width, (place + 1) * width)
    segments = []
    for start in range(0, module.dim, width):
        total = torch.zeros_like(line[0][:width]) if linear.bias is None else linear.bias[mine]
        for other, patch in enumerate(line):
            block = linear.weight[mine, other * width : (other + 1) * width]
            total = total + block @ patch[start : start + width]
        segments.append(total)
    return torch.cat(segments)
