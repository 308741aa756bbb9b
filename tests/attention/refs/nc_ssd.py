"""NC-SSD, arXiv:2407.18559: the sum over tokens of outer products, token by token."""

import torch
from torch import Tensor, nn

from . import affine, convolved, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_o (LN(C_n Σ_m B_mᵀ Δ_m a v_m + s v_n) [⊙ (W_z x_n + b_z)]), Δ = softplus(W_Δ x + b_Δ)."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        vkq = affine(module.vkq, x[b])
        if module.conv is not None:
            near, prefix = convolved(module, module.conv, vkq, there), module.num_prefix_tokens
            vkq = torch.cat([vkq[:prefix], near[prefix:]])
            vkq = vkq / (1 + torch.exp(-vkq))
        values, keys, queries = vkq.split(module.widths, dim=1)
        steps = torch.log(1 + torch.exp(affine(module.step, x[b])))
        heads = []
        for h, v in enumerate(values.chunk(module.num_heads, dim=1)):
            rate = torch.exp(module.log_rate[h])
            state = sum(torch.outer(keys[m], steps[m, h] * rate * v[m]) for m in there)
            heads.append(
                torch.stack([query @ state + module.skip[h] * row for query, row in zip(queries, v, strict=True)])
            )
        out = torch.cat(heads, dim=1)
        centred = out - out.mean(dim=1, keepdim=True)
        norm = module.norm
        out = centred / (centred.square().mean(dim=1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
        if module.gate is not None:
            out = out * affine(module.gate, x[b])
        images.append(affine(module.proj, out))
    return torch.stack(images)
