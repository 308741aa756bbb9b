"""Nyströmformer, arXiv:2102.03902: the whole N×N matrix K₁ Z K₃ of each head; the convolution tap by tap."""

import math

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """(softmax(Q K̃ᵀ/√d) Z softmax(Q̃ Kᵀ/√d)) V + DWC(V), with segments and keys of the present tokens only.

    softmax(Q Kᵀ/√d) V + DWC(V) if there are no more of them than landmarks.
    """
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        q, k, v = (heads_of(rows, module.num_heads) for rows in affine(module.qkv, x[b]).chunk(3, dim=1))
        heads = []
        for h in range(module.num_heads):
            weights = _softmax_map(q[h], k[h][there])
            if len(there) > module.num_landmarks:
                segments = _segments(there, module.num_landmarks)
                landmark_q = torch.stack([sum(q[h][n] for n in segment) / len(segment) for segment in segments])
                landmark_k = torch.stack([sum(k[h][n] for n in segment) / len(segment) for segment in segments])
                between = _inverse(_softmax_map(landmark_q, landmark_k), module.iterations)
                weights = _softmax_map(q[h], landmark_k) @ between @ _softmax_map(landmark_q, k[h][there])
            out = weights @ v[h][there]
            if module.conv is not None:
                out = out + torch.stack([_convolved(module, h, v[h], n, there) for n in range(x.shape[1])])
            heads.append(out)
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)


def _segments(tokens: list[int], count: int) -> list[list[int]]:
    """Consecutive tokens, split into segments whose lengths differ by at most 1 and never decrease."""
    lengths = sorted(len(range(i, len(tokens), count)) for i in range(count))
    starts = [sum(lengths[:i]) for i in range(count)]
    return [tokens[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def _softmax_map(queries: Tensor, keys: Tensor) -> Tensor:
    rows = []
    for query in queries:
        weights = torch.stack([torch.exp(torch.dot(query, key) / math.sqrt(len(query))) for key in keys])
        rows.append(weights / weights.sum())
    return torch.stack(rows)


def _inverse(a: Tensor, iterations: int) -> Tensor:
    """The iteration, multiplied out."""
    size = len(a)
    largest_column = max(sum(abs(a[i, j]) for i in range(size)) for j in range(size))
    largest_row = max(sum(abs(a[i, j]) for j in range(size)) for i in range(size))
    z = a.T / (largest_column * largest_row)
    for _ in range(iterations):
        once = z @ a @ z
        twice = once @ a @ z
        thrice = twice @ a @ z
        z = (13 * z - 15 * once + 7 * twice - thrice) / 4
    return z


def _convolved(module: nn.Module, head: int, v: Tensor, token: int, there: list[int]) -> Tensor:
    """A head's convolution at one token: 0 for a prefix token; absent tokens and the outside are 0."""
    (rows, columns), prefix, reach = module.grid_size, module.num_prefix_tokens, module.conv.kernel_size[0] // 2
    total = torch.zeros_like(v[token])
    if token < prefix:
        return total
    row, column = divmod(token - prefix, columns)
    for r in range(max(0, row - reach), min(rows, row + reach + 1)):
        for c in range(max(0, column - reach), min(columns, column + reach + 1)):
            other = prefix + r * columns + c
            if other in there:
                total = total + module.conv.weight[head, 0, r - row + reach, c - column + reach] * v[other]
    return total
