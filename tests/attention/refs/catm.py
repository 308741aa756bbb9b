"""CAS-ViT's CATM, arXiv:2408.03703: token by token, the convolutions tap by tap."""

import torch
from torch import Tensor, nn

from . import affine, kept


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
    """Of a patch the sum of its neighbours times the kernel's taps, what is absent or outside being 0; else itself."""
    (rows, columns), prefix = module.grid_size, module.num_prefix_tokens
    result = list(tokens[:prefix])
    for n in range(rows * columns):
        row, column = divmod(n, columns)
        total = conv.bias
        for r in range(max(row - 1, 0), min(row + 2, rows)):
            for c in range(max(column - 1, 0), min(column + 2, columns)):
                if prefix + r * columns + c in there:
                    total = total + conv.weight[:, 0, r - row + 1, c - column + 1] * tokens[prefix + r * columns + c]
        result.append(total)
    return torch.stack(result)
