"""ViT³, arXiv:2512.01643: the loss of the inner models token by token, and its gradient by autograd."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from . import affine, convolved, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """f(q; W − clip ∇L), L = −mean_n ⟨f(k_n; W), v_n⟩ / 3, for each head; f' likewise with the 3×3 convolution."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        queries, keys, values = affine(module.qkv, x[b]).chunk(3, dim=1)
        q, k, v = (heads_of(rows, module.num_heads) for rows in (queries, keys, values))
        heads = []
        for h in range(module.num_heads):
            start = (module.w1[h], module.w2[h])
            predicted = [torch.dot(_glu(k[h][n], *start), v[h][n]) for n in there]
            w1, w2 = (
                w - torch.stack([_clipped(column) for column in gradient.T]).T
                for w, gradient in zip(start, _gradients(predicted, start), strict=True)
            )
            heads.append(torch.stack([_glu(query, w1, w2) for query in q[h]]))
        merged = torch.cat(heads, dim=1)
        if module.conv is not None:
            merged = merged + convolved(module, module.conv, values, there)
        out = affine(module.proj, merged)
        if module.kernel is not None:
            out = out + affine(module.conv_proj, _conv_head(module, x[b], there))
        images.append(out)
    return torch.stack(images)


def _conv_head(module: nn.Module, x: Tensor, there: list[int]) -> Tensor:
    prefix = module.num_prefix_tokens
    q, k, v = affine(module.conv_qkv, x).chunk(3, dim=1)
    patches = [n for n in there if n >= prefix]
    kernel = module.kernel
    if patches:
        predicted = convolved(module, SimpleNamespace(weight=kernel, bias=None), k, there)
        (gradient,) = _gradients([torch.dot(predicted[n], v[n]) for n in patches], (kernel,))
        kernel = kernel - torch.stack([_clipped(of_channel) for of_channel in gradient])
    return convolved(module, SimpleNamespace(weight=kernel, bias=None), q, there)


def _glu(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    gate = x @ w2
    return (x @ w1) * gate / (1 + torch.exp(-gate))


def _gradients(products: list[Tensor], weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    loss = -sum(products) / len(products) / 3
    return torch.autograd.grad(loss, weights, create_graph=True)


def _clipped(gradient: Tensor) -> Tensor:
    return gradient / (gradient.square().sum().sqrt() + 1)
