"""MALA, arXiv:2507.00698: the whole N×N matrix of scores β κ_ij − γ; rotations as complex numbers."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, elu_plus_one, heads_of, kept, turned_product


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
                phi = elu_plus_one(query)
                phi_k = {j: elu_plus_one(k[h][j]) for j in there}
                z = sum(factor * torch.dot(phi, phi_k[j]) for j in there)
                beta, gamma = 1 + 1 / z, z / len(there)
                kernel = {
                    j: factor
                    * (turned_product(module, phi, i, phi_k[j], j) if module.rotary else torch.dot(phi, phi_k[j]))
                    for j in there
                }
                rows.append(sum((beta * kernel[j] - gamma) * v[h][j] for j in there))
            heads.append(torch.stack(rows))
        merged = torch.cat(heads, dim=1)
        if module.conv is not None:
            merged = merged + convolved(module, module.conv, values, there)
        if module.gate is not None:
            merged = merged * affine(module.gate, x[b])
        images.append(affine(module.proj, merged))
    return torch.stack(images)
