"""NaLa, arXiv:2506.21137: query by query; rotations as complex numbers."""

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept, turned_product


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j κ_ij v_j / Σ_j φ(q_i)·ψ(k_j), κ the product of the features, turned where the module rotates."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        q, k, v = (heads_of(rows, module.num_heads) for rows in (queries, keys, values))
        heads = []
        for h in range(module.num_heads):
            rows = []
            for i, query in enumerate(q[h]):
                total = sum(_product(module, query, i, k[h][j], j, turned=False) for j in there)
                summed = sum(_product(module, query, i, k[h][j], j, turned=module.rotary) * v[h][j] for j in there)
                rows.append(summed / total)
            heads.append(torch.stack(rows))
        out = torch.cat(heads, dim=1)
        if module.conv is not None:
            out = out + convolved(module, module.conv, values, there)
        if module.gate is not None:
            gate = affine(module.gate, x[b])
            out = _normalised(out, module.norm) * gate / (1 + torch.exp(-gate))
        images.append(affine(module.proj, out))
    return torch.stack(images)


def _product(module: nn.Module, query: Tensor, i: int, key: Tensor, j: int, turned: bool) -> Tensor:
    norm = query.square().sum().sqrt()
    power = 3 * (0.5 + torch.tanh(norm))
    total = 0
    for sign in (1, -1):
        phi = torch.stack([(sign * e / norm) ** power if sign * e > 0 else 0 * e for e in query])
        psi = torch.stack([(sign * e) ** 3 if sign * e > 0 else 0 * e for e in key])
        total = total + (turned_product(module, phi, i, psi, j) if turned else torch.dot(phi, psi))
    return total


def _normalised(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
