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
            phi, psi = [_query_features(query) for query in q[h]], {j: _key_features(k[h][j]) for j in there}
            rows = []
            for i, features in enumerate(phi):
                kernel = {j: sum(torch.dot(a, b) for a, b in zip(features, psi[j], strict=True)) for j in there}
                turned = kernel
                if module.rotary:
                    turned = {
                        j: sum(turned_product(module, a, i, b, j) for a, b in zip(features, psi[j], strict=True))
                        for j in there
                    }
                rows.append(sum(turned[j] * v[h][j] for j in there) / sum(kernel.values()))
            heads.append(torch.stack(rows))
        out = torch.cat(heads, dim=1)
        if module.conv is not None:
            out = out + convolved(module, module.conv, values, there)
        if module.gate is not None:
            gate = affine(module.gate, x[b])
            out = _normalised(out, module.norm) * gate / (1 + torch.exp(-gate))
        images.append(affine(module.proj, out))
    return torch.stack(images)


def _query_features(query: Tensor) -> list[Tensor]:
    """(±q / ‖q‖)^p where it is positive, p = 3 (1/2 + tanh ‖q‖)."""
    norm = query.square().sum().sqrt()
    power = 3 * (0.5 + torch.tanh(norm))
    magnitude = torch.exp(power * torch.log(query.abs() / norm))
    return [magnitude * (sign * query > 0) for sign in (1, -1)]


def _key_features(key: Tensor) -> list[Tensor]:
    """(±k)³ where it is positive."""
    return [sign * key**3 * (sign * key > 0) for sign in (1, -1)]


def _normalised(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
