"""Gated linear attention in both directions, arXiv:2405.18425: the state token by token."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_o norm(q_n (S_n + S'_n) / (2√d)), S = diag(α) S + kᵀv along the sequence, S' against it; mixed with x̃."""
    half, heads = x.shape[2] // 2, module.num_heads
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        tokens = x[b]
        if module.conv is not None:
            near, prefix = convolved(module, module.conv, tokens, there), module.num_prefix_tokens
            tokens = torch.cat([tokens[:prefix], near[prefix:] / (1 + torch.exp(-near[prefix:]))])
        q, k, v = affine(module.qkv, tokens).split((half, half, 2 * half), dim=1)
        decays = (1 / (1 + torch.exp(-affine(module.decay[1], affine(module.decay[0], tokens))))) ** (1 / 16)
        out = []
        for h in range(heads):
            of_head = [t.chunk(heads, dim=1)[h] for t in (q, k, v, *decays.chunk(2, dim=1))]
            both = [
                _summed(*of_head[:3], of_head[3], there),
                _summed(*of_head[:3], of_head[4], there[::-1]),
            ]
            seen = [(both[0][n] + both[1][n]) / 2 / math.sqrt(half // heads) for n in range(len(tokens))]
            normed = _normalised(torch.stack(seen), module.norm)
            if module.gate is not None:
                gate = 1 / (1 + torch.exp(-affine(module.gate, tokens).chunk(heads, dim=1)[h]))
                normed = normed * gate + _normalised(tokens.chunk(heads, dim=1)[h], module.local_norm) * (1 - gate)
            out.append(normed)
        images.append(affine(module.proj, torch.cat(out, dim=1)))
    return torch.stack(images)


def _summed(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, order: list[int]) -> list[Tensor]:
    """q_n S_n for each token; 0 for one that is hidden."""
    out = [torch.zeros_like(row) for row in v]
    state = torch.zeros(k.shape[1], v.shape[1], dtype=k.dtype)
    for n in order:
        state = decay[n].unsqueeze(1) * state + torch.outer(k[n], v[n])
        out[n] = q[n] @ state
    return out


def _normalised(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + norm.eps).sqrt() * norm.weight
