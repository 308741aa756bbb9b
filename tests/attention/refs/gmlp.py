"""gMLP, arXiv:2105.08050, figure 1 without its norm and residual, token by token."""

import math

import torch
from torch import Tensor, nn

from . import affine, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """(u_i ⊙ (Σ_j W_ij LN(v_j) + b_i)) V + b_V, with the columns of absent tokens left out of W."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        before = affine(module.uv, x[b])
        hidden = before * (1 + torch.erf(before / math.sqrt(2))) / 2
        width = hidden.shape[1] // 2
        normed = {j: _layer_norm(module.norm, hidden[j, width:]) for j in there}
        rows = []
        for i, token in enumerate(hidden):
            gate = sum(module.spatial.weight[i, j] * normed[j] for j in there) + module.spatial.bias[i]
            rows.append(token[:width] * gate)
        images.append(affine(module.proj, torch.stack(rows)))
    return torch.stack(images)


def _layer_norm(norm: nn.LayerNorm, row: Tensor) -> Tensor:
    centred = row - row.sum() / len(row)
    return centred / torch.sqrt(torch.dot(centred, centred) / len(row) + norm.eps) * norm.weight + norm.bias
