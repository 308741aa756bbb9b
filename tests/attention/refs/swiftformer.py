"""SwiftFormer's efficient additive attention, arXiv:2303.15446, token by token."""

import math

import torch
from torch import Tensor, nn

from . import affine, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_f (W_p (g ⊙ k̂) + b_p + q̂) + b_f."""
    head_dim = x.shape[2] // module.num_heads
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k = ([_unit(row) for row in affine(layer, x[b])] for layer in (module.q, module.k))
        shares = [torch.dot(q[n], module.query_logit) / math.sqrt(head_dim) for n in there]
        if module.norm == "softmax":
            shares = [torch.exp(share) for share in shares]
            length = sum(shares)
        else:
            length = torch.sqrt(sum(share**2 for share in shares))
        global_query = sum(share / length * q[n] for share, n in zip(shares, there, strict=True))
        mixed = torch.stack([affine(module.transform, global_query * k_n) + q_n for k_n, q_n in zip(k, q, strict=True)])
        images.append(affine(module.proj, mixed))
    return torch.stack(images)


def _unit(vector: Tensor) -> Tensor:
    return vector / torch.sqrt((vector**2).sum())
