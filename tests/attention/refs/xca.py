"""El-Nouby et al., arXiv:2106.09681, channel by channel."""

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Output channel i is Σ_j softmax_j(τ cos(k_j, q_i)) v_j over the channels j of its head."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        channels = []
        for h in range(module.num_heads):
            for query in q[h][there].T:
                cosines = [torch.dot(query, key) / torch.sqrt(query @ query * (key @ key)) for key in k[h][there].T]
                weights = [torch.exp(module.temperature[h] * cosine) for cosine in cosines]
                mixed = sum(weight * value for weight, value in zip(weights, v[h].T, strict=True))
                channels.append(mixed / sum(weights))
        images.append(affine(module.proj, torch.stack(channels, dim=1)))
    return torch.stack(images)
