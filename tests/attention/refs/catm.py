"""CAS-ViT's CATM, arXiv:2408.03703: token by token."""

import torch
from torch import Tensor, nn

from . import affine, convolved, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Γ′(Γ(Φ(Q) + Φ(K)) ⊙ V), Φ(t) = C(S(t))."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = affine(module.qkv, x[b]).chunk(3, dim=1)
        context = _phi(module, 0, q, there) + _phi(module, 1, k, there)
        mixed = _convolved(module, module.sum_conv, context, there) * v
        images.append(_convolved(module, module.out_conv, mixed, there))
    return torch.stack(images)


def _phi(module: nn.Module, which: int, rows: Tensor, there: list[int]) -> Tensor:
    local = _convolved(module, module.spatial_conv[which], rows, there)
    gates = []
    for row in local:
        logit = sum(w * c for w, c in zip(module.spatial_gate[which].weight[0], row, strict=True) if c > 0)
        gates.append(_sigmoid(logit if isinstance(logit, Tensor) else row.new_zeros(())))
    rows = torch.stack([gate * row for gate, row in zip(gates, rows, strict=True)])
    mean = sum(rows[n] for n in there) / len(there)
    return rows * _sigmoid(affine(module.channel_gate[which], mean))


def _sigmoid(logit: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-logit))


def _convolved(module: nn.Module, conv: nn.Conv2d, tokens: Tensor, there: list[int]) -> Tensor:
    """A convolution of the patches; prefix tokens pass through."""
    prefix = module.num_prefix_tokens
    return torch.cat([tokens[:prefix], convolved(module, conv, tokens, there)[prefix:]])
