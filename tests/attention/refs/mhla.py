"""MHLA, arXiv:2601.07832: the whole N×N matrix of kernel values, each times the coefficient of the two blocks."""

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j m_ij φ(q_i)·φ(k_j) v_j / Σ_j m_ij φ(q_i)·φ(k_j) [+ DWC(v)_i], φ = ReLU, 0 ≤ m ≤ 1 of blocks i and j."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        if isinstance(module.q_norm, nn.RMSNorm):
            queries, keys = _normalised(queries, module.q_norm), _normalised(keys, module.k_norm)
        q, k, v = (heads_of(rows, module.num_heads) for rows in (queries, keys, values))
        heads = []
        for h in range(module.num_heads):
            rows = []
            for i, query in enumerate(q[h]):
                weights = [_coefficient(module, i, j) * torch.dot(query.relu(), k[h][j].relu()) for j in there]
                total = sum(weights)
                summed = sum(weight * v[h][j] for weight, j in zip(weights, there, strict=True))
                rows.append(summed / total if total > 0 else summed)
            heads.append(torch.stack(rows))
        out = torch.cat(heads, dim=1)
        if module.conv is not None:
            out = out + convolved(module, module.conv, values, there)
        images.append(affine(module.proj, out))
    return torch.stack(images)


def _coefficient(module: nn.Module, i: int, j: int) -> Tensor | float:
    if min(i, j) < module.num_prefix_tokens:
        return 1 / len(module.mixing)
    return module.mixing[_block(module, i), _block(module, j)]


def _block(module: nn.Module, token: int) -> int:
    (rows, columns), side = module.grid_size, module.side
    row, column = divmod(token - module.num_prefix_tokens, columns)
    return row // -(-rows // side) * side + column // -(-columns // side)


def _normalised(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * norm.weight
