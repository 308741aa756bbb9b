"""MobileViTv2's separable self-attention, arXiv:2206.02680, token by token."""

import torch
from torch import Tensor, nn

from . import affine, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_O (ReLU(W_V x_n) ⊙ Σ_m s_m W_K x_m)."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        k, v = affine(module.kv, x[b]).chunk(2, dim=1)
        # The paper's logit has a bias and the module's has none: any bias must give the same.
        shares = [torch.exp(torch.dot(module.logit.weight[0], x[b, n]) + 0.7) for n in there]
        context = sum(share * k[n] for share, n in zip(shares, there, strict=True)) / sum(shares)
        rows = [torch.where(row > 0, row, 0) * context for row in v]
        images.append(affine(module.proj, torch.stack(rows)))
    return torch.stack(images)
