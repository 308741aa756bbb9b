"""Bi-WKV, arXiv:2403.02308, equation 5: pair by pair, and the shift patch by patch."""

import torch
from torch import Tensor, nn

from . import affine, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_o (σ(r_n) ⊙ Σ_m e_nm v_m / Σ_m e_nm), e_nm = exp(k_m − (|n − m| − 1) w/N), e_nn = exp(k_n + u/N)."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        inputs = [x[b]] * 3
        if module.mixing is not None:
            near = _shifted(module, x[b], there)
            inputs = [mu * x[b] + (1 - mu) * near for mu in module.mixing]
        r, k, v = (affine(layer, t) for layer, t in zip((module.r, module.k, module.v), inputs, strict=True))
        rows = []
        for n in range(len(k)):
            far = [module.own if m == n else -(abs(n - m) - 1) * module.decay for m in there]
            weights = [torch.exp(k[m] + bonus / len(there)) for m, bonus in zip(there, far, strict=True)]
            mean = sum(w * v[m] for w, m in zip(weights, there, strict=True)) / sum(weights)
            rows.append(mean / (1 + torch.exp(-r[n])))
        images.append(affine(module.proj, torch.stack(rows)))
    return torch.stack(images)


def _shifted(module: nn.Module, x: Tensor, there: list[int]) -> Tensor:
    """Each quarter of the channels is that of the neighbour on the left, on the right, above or below."""
    (rows, columns), prefix = module.grid_size, module.num_prefix_tokens
    quarter = x.shape[1] // 4
    out = list(x[:prefix])
    for n in range(rows * columns):
        row, column = divmod(n, columns)
        parts = []
        for index, (r, c) in enumerate(((row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column))):
            exists = 0 <= r < rows and 0 <= c < columns and prefix + r * columns + c in there
            source = x[prefix + r * columns + c] if exists else torch.zeros_like(x[0])
            parts.append(source[index * quarter : (index + 1) * quarter])
        own = x[prefix + n] if prefix + n in there else torch.zeros_like(x[0])
        out.append(torch.cat([*parts, own[4 * quarter :]]))
    return torch.stack(out)
