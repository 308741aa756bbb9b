"""Fastformer, arXiv:2108.09084, equations 1-6, token by token."""

import math

import torch
from torch import Tensor, nn

from . import affine, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W_t (k̄ ⊙ v) + b_t + q."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k = affine(module.q, x[b]), affine(module.k, x[b])
        v = q if module.v is None else affine(module.v, x[b])
        global_query = _pool(module, module.query_logit, q, there)
        p = torch.stack([global_query * row for row in k])
        global_key = _pool(module, module.key_logit, p, there)
        out = torch.stack([affine(module.transform, global_key * v_n) + q_n for v_n, q_n in zip(v, q, strict=True)])
        images.append(out if isinstance(module.proj, nn.Identity) else affine(module.proj, out))
    return torch.stack(images)


def _pool(module: nn.Module, logit_weight: Tensor, tokens: Tensor, there: list[int]) -> Tensor:
    """Σ_n softmax_N((w·t_n + bias) / √d) t_n, head by head, [N, C] -> [C]."""
    head_dim = tokens.shape[1] // module.num_heads
    pooled = []
    for h in range(module.num_heads):
        part = slice(h * head_dim, (h + 1) * head_dim)
        seen = tokens if module.logits == "full" else tokens[:, part]
        # The paper's logits have a bias and the module's have none: any bias must give the same.
        bias = math.sin(h + 1)
        shares = [torch.exp((torch.dot(logit_weight[h], seen[n]) + bias) / math.sqrt(head_dim)) for n in there]
        pooled.append(sum(share * tokens[n, part] for share, n in zip(shares, there, strict=True)) / sum(shares))
    return torch.cat(pooled)
