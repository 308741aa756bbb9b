"""MALA, arXiv:2507.00698: the whole N×N matrix of scores β κ_ij − γ; rotations as complex numbers."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j (β_i κ_ij − γ_i) v_j, z = Σ_j φ(q_i)·φ(k_j) / (N √d), β = 1 + 1/z, γ = z/N, φ = elu + 1.

    κ = φ(q)·φ(k) / (N √d), of rotated φ where the module rotates; then DWC(v) is added and the gate multiplies.
    """
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        q, k, v = (heads_of(rows, module.num_heads) for rows in (queries, keys, values))
        heads = []
        for h in range(module.num_heads):
            factor = 1 / (len(there) * math.sqrt(q[h].shape[1]))
            rows = []
            for i, query in enumerate(q[h]):
                phi = _elu_plus_one(query)
                phi_k = {j: _elu_plus_one(k[h][j]) for j in there}
                z = sum(factor * torch.dot(phi, phi_k[j]) for j in there)
                beta, gamma = 1 + 1 / z, z / len(there)
                kernel = {j: factor * _product(module, phi, i, phi_k[j], j) for j in there}
                rows.append(sum((beta * kernel[j] - gamma) * v[h][j] for j in there))
            heads.append(torch.stack(rows))
        merged = torch.cat(heads, dim=1)
        if module.conv is not None:
            merged = merged + convolved(module, module.conv, values, there)
        if module.gate is not None:
            merged = merged * affine(module.gate, x[b])
        images.append(affine(module.proj, merged))
    return torch.stack(images)


def _elu_plus_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0)))


def _product(module: nn.Module, q: Tensor, i: int, k: Tensor, j: int) -> Tensor:
    """q·k, with rotation, if the module rotates, by the positions of both."""
    if not module.rotary:
        return torch.dot(q, k)
    # Of two turned complex numbers a e^(iα) and b e^(iβ) the product is the real part of a b̄ e^(i(α − β)).
    turn = [
        first - second for first, second in zip(_angles(module, i, len(q)), _angles(module, j, len(k)), strict=True)
    ]
    total = 0
    for pair, angle in enumerate(turn):
        a, b = torch.complex(q[2 * pair], q[2 * pair + 1]), torch.complex(k[2 * pair], k[2 * pair + 1])
        total = total + (a * b.conj() * complex(math.cos(angle), math.sin(angle))).real
    return total


def _angles(module: nn.Module, token: int, width: int) -> list[float]:
    """The angle of each pair of channels: half of them by row, half by column, with decreasing speed."""
    pairs = width // 4
    if token < module.num_prefix_tokens:
        return [0.0] * (2 * pairs)
    place = divmod(token - module.num_prefix_tokens, module.grid_size[1])
    return [where * 10000 ** -(n / max(pairs - 1, 1)) for where in place for n in range(pairs)]
