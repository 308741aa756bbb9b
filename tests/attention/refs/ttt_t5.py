"""T⁵, arXiv:2605.02772: the loss of the inner model token by token, and its gradient by autograd."""

import math

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """f(q; W − ∇L), L = −mean_n ⟨f(k̂_n; W), v_n⟩ / √d, k̂ the keys normalised over the tokens."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        centred = keys - sum(keys[n] for n in there) / len(there)
        keys = centred / torch.sqrt(sum(centred[n] ** 2 for n in there) / len(there) + 1)
        if module.q_conv is not None:
            queries = queries + convolved(module, module.q_conv, queries, there)
            keys = keys + convolved(module, module.k_conv, keys, there)
        q, k, v = (heads_of(rows, module.num_heads) for rows in (queries, keys, values))
        heads = []
        for h in range(module.num_heads):
            weights = (module.w1[h], module.w2[h], module.w3[h])
            loss = -sum(torch.dot(_inner(k[h][n], *weights), v[h][n]) for n in there) / len(there)
            steps = torch.autograd.grad(loss / math.sqrt(k[h].shape[1]), weights, create_graph=True)
            trained = [weight - step for weight, step in zip(weights, steps, strict=True)]
            heads.append(torch.stack([_inner(query, *trained) for query in q[h]]))
        out = torch.cat(heads, dim=1)
        if module.conv is not None:
            out = out + convolved(module, module.conv, values, there)
        images.append(affine(module.proj, out))
    return torch.stack(images)


def _inner(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    gate = x @ w1
    return (gate / (1 + torch.exp(-gate)) * (x @ w2)) @ w3
