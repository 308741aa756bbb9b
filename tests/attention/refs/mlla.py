"""MILA, arXiv:2405.16605: pair by pair, rotated by their relative position."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j s_ij v_j / Σ_j φ(q_i)·φ(k_j) [+ LePE(v)_i] [⊙ SiLU], with the rotated products s_ij."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        q, k, v = (heads_of(rows, module.num_heads) for rows in (_phi(queries), _phi(keys), values))
        width = q[0].shape[1]
        heads = []
        for h in range(module.num_heads):
            rows = []
            for i, query in enumerate(q[h]):
                turned = [_turned_product(module, query, k[h][j], h * width, i, j) for j in there]
                total = sum(torch.dot(query, k[h][j]) for j in there)
                rows.append(sum(s * v[h][j] for s, j in zip(turned, there, strict=True)) / total)
            heads.append(torch.stack(rows))
        out = torch.cat(heads, dim=1)
        if module.conv is not None:
            out = out + convolved(module, module.conv, values, there)
        if module.gate is not None:
            gate = affine(module.gate, x[b])
            out = out * gate / (1 + torch.exp(-gate))
        images.append(affine(module.proj, out))
    return torch.stack(images)


def _phi(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, torch.exp(torch.where(x > 0, 0, x)))


def _turned_product(module: nn.Module, query: Tensor, key: Tensor, first_channel: int, i: int, j: int) -> Tensor:
    """The real part of Σ q k* e^(i(α_i − α_j)) over pairs of channels as complex numbers."""
    total = 0
    for channel, (a, c) in enumerate(zip(query, key, strict=True), start=first_channel):
        other = (channel ^ 1) - first_channel
        difference = _angle(module, channel // 2, i) - _angle(module, channel // 2, j)
        sign = -1 if channel % 2 else 1
        total = total + a * c * math.cos(difference) + sign * a * key[other] * math.sin(difference)
    return total


def _angle(module: nn.Module, pair: int, token: int) -> float:
    if token < module.num_prefix_tokens:
        return 0.0
    row, column = divmod(token - module.num_prefix_tokens, module.grid_size[1])
    half = module.dim // 4
    return (row if pair < half else column) * 10000 ** -(pair % half / half)
