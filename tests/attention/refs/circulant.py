"""Circulant attention, arXiv:2512.21542: shift by shift of the grid, without Fourier transforms."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_o (Σ_m a_m v_n+m [+ DWC(v)_n] [⊙ SiLU(W_g x_n)]), a = softmax_m(Σ_n q_n k_n+m / √N) for each channel."""
    (rows, columns), prefix = module.grid_size, module.num_prefix_tokens
    patches = [(row, column) for row in range(rows) for column in range(columns)]
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        tokens = affine(module.qkv, x[b])
        seen = torch.stack([row if n in there else 0 * row for n, row in enumerate(tokens)])
        q, k, v = (part[prefix:].unflatten(0, (rows, columns)) for part in seen.chunk(3, dim=1))

        def shifted(grid: Tensor, patch: tuple[int, int], by: tuple[int, int]) -> Tensor:
            return grid[(patch[0] + by[0]) % rows, (patch[1] + by[1]) % columns]

        logits = [sum(q[n] * shifted(k, n, m) for n in patches) / math.sqrt(len(patches)) for m in patches]
        weights = [logit.exp() for logit in logits]
        total = sum(weights)
        means = [sum(w / total * shifted(v, n, m) for w, m in zip(weights, patches, strict=True)) for n in patches]
        out = torch.stack([torch.zeros_like(x[b, 0])] * prefix + means)
        if module.conv is not None:
            out = out + convolved(module, module.conv, tokens.chunk(3, dim=1)[2], there)
        if module.gate is not None:
            gate = affine(module.gate, x[b])
            out = out * gate / (1 + torch.exp(-gate))
        images.append(affine(module.proj, out))
    return torch.stack(images)
