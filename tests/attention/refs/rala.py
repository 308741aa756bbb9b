"""RALA, arXiv:2411.07635: query by query; rotations as complex numbers."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, elu_plus_one, heads_of, kept, turned_product


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_o ((Σ_j α_j κ_ij v_j / Σ_j α_j φ(q_i)·φ(k_j) [+ DWC(v)_i]) ⊙ (W_g x_i + b_g)), α = softmax_j(q̄·φ(k_j) / √d).

    κ = φ(q)·φ(k), of rotated φ where the module rotates; q̄ is the mean of φ(q), φ = elu + 1.
    """
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        q, k, v = (heads_of(rows, module.num_heads) for rows in (queries, keys, values))
        heads = []
        for h in range(module.num_heads):
            phi_q, phi_k = elu_plus_one(q[h]), elu_plus_one(k[h])
            mean = sum(phi_q[j] for j in there) / len(there)
            alpha = {j: torch.exp(torch.dot(mean, phi_k[j]) / math.sqrt(len(mean))) for j in there}
            rows = []
            for i in range(len(phi_q)):
                total = sum(alpha[j] * torch.dot(phi_q[i], phi_k[j]) for j in there)
                kernel = {
                    j: turned_product(module, phi_q[i], i, phi_k[j], j)
                    if module.rotary
                    else torch.dot(phi_q[i], phi_k[j])
                    for j in there
                }
                rows.append(sum(alpha[j] * kernel[j] * v[h][j] for j in there) / total)
            heads.append(torch.stack(rows))
        merged = torch.cat(heads, dim=1)
        if module.conv is not None:
            merged = merged + convolved(module, module.conv, values, there)
        images.append(affine(module.proj, merged * affine(module.gate, x[b])))
    return torch.stack(images)
