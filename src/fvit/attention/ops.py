"""Arithmetic that several mechanisms share: guarded quotients, product order, pair masks, patches on their grid."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, or the numerator itself where the denominator is not positive.

    Both parts of a kernel's quotient underflow together, and dividing by 1 there keeps value and gradient finite. An
    epsilon would change the quotient everywhere; after a clamp to the smallest number the reciprocal overflows.
    """
    return numerator / torch.where(denominator > 0, denominator, 1)


def unit(x: Tensor, dim: int) -> Tensor:
    """`x` scaled to length 1 along `dim`; unchanged where its length is 0 or underflows, with a finite gradient.

    Autocast computes lengths in float32. Those of float16 may be beyond its range, so only the result is rounded there.
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return divide(x, length if x.dtype == torch.float16 else length.to(x.dtype)).to(x.dtype)


def cast_once(x: Tensor) -> Tensor:
    """x in the dtype of autocast, so that several products of it share one cast; x itself without autocast."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind))


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which products keep the dtype of their factors, for what 16 bits would falsify."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def not_half(dtype: torch.dtype) -> torch.dtype:
    """float32 for float16, whose range ends at 65,504; any other dtype itself."""
    return torch.float32 if dtype == torch.float16 else dtype


def kernel_average(q: Tensor, k: Tensor, v: Tensor, rotate: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Σ_m (q_n·k_m) v_m / Σ_m q_n·k_m for features ≥ 0, and 0 where all are 0: q, k [B, H, N, m], v [B, H, N, d].

    The result has the dtype of `v`. It is computed in the widest dtype of the three, autocast or not, and in float32
    instead of float16.

    Args:
        q: features of the queries.
        k: features of the keys.
        v: values.
        rotate: linear map of the features in the numerator, if any.
    """
    dtype = not_half(torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype))
    # The factor 1/N cancels; with it no sum is larger than its largest term.
    q, k = q.to(dtype), k.to(dtype) / k.shape[-2]
    with without_autocast(q.device):
        of_q, of_k = (q, k) if rotate is None else (rotate(q), rotate(k))
        return divide(associate(of_q, of_k, v.to(dtype)), q @ k.sum(dim=-2).unsqueeze(-1)).to(v.dtype)


def associate(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q kᵀ v in the order with fewer MACs: q, k [B, H, N, m], v [B, H, N, d] to [B, H, N, d].

    q (kᵀ v) takes 2·N·m·d of them and (q kᵀ) v takes N²·(m + d).
    """
    (tokens, features), width = k.shape[-2:], v.shape[-1]
    if tokens * (features + width) < 2 * features * width:
        return q @ k.mT @ v
    return q @ (k.mT @ v)


def project_sums(weights: Tensor, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """weights (x Wᵀ + b), summed before the projection: weights [..., k, N], x [..., N, C] to [..., k, D].

    Takes fewer MACs than the other order for k < N. The weights need not sum to 1.
    """
    projected = F.linear(weights @ x, matrix)
    if bias is not None:
        projected = projected + (weights.sum(dim=-1, keepdim=True) * bias).to(projected.dtype)
    return projected


def refuse_mask_and_causality(attn_mask: Tensor | None, is_causal: bool) -> None:
    """Raise ValueError if both are given, as SDPA does."""
    if is_causal and attn_mask is not None:
        raise ValueError("attention takes attn_mask or is_causal, not both; make the mask causal instead")


def token_shares(bias: Tensor | None, x: Tensor) -> Tensor:
    """The softmax of a bias over keys, 1/N per token of x [..., N, C] without one: [B or 1, 1, N] in the dtype of x."""
    tokens = x.shape[-2]
    return x.new_full((1, 1, tokens), 1 / tokens) if bias is None else bias.softmax(dim=-1).to(x.dtype)


def pair_bias(attn_mask: Tensor | None, is_causal: bool, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """A bias on the logits of all pairs, and the number of keys that each query sees, both in the dtype of `x`.

    `attn_mask` follows SDPA: it broadcasts to [B, H, N, N], True where a key takes part, or a float added to the
    logits. A float so low that its exponential is 0 hides the key. The count broadcasts to [B, H, N, 1] and is at
    least 1, so it can be divided by.

    Raises:
        ValueError: both a mask and causality are given.
    """
    tokens = x.shape[-2]
    refuse_mask_and_causality(attn_mask, is_causal)
    if is_causal:
        attn_mask = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).tril()
    if attn_mask is None:
        return None, x.new_full((1,), tokens)
    if attn_mask.dtype == torch.bool:
        seen, bias = attn_mask, torch.zeros_like(attn_mask, dtype=x.dtype).masked_fill(~attn_mask, float("-inf"))
    else:
        bias = attn_mask.to(x.dtype)
        seen = bias.exp() > 0
    count = seen.expand(*seen.shape[:-1], tokens).sum(dim=-1, keepdim=True).clamp(min=1)
    return bias, count.to(x.dtype)


def softmax_map(q: Tensor, k: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """softmax(q kᵀ/√d) [B, H, N, N], the attention weights that SDPA does not return; 0 where all keys are hidden."""
    bias, _ = pair_bias(attn_mask, is_causal, q)
    logits = q * q.shape[-1] ** -0.5 @ k.mT
    if bias is None:
        return logits.softmax(dim=-1)
    nothing = bias.isneginf().all(dim=-1, keepdim=True)
    return (logits + bias).masked_fill(nothing, 0).softmax(dim=-1).masked_fill(nothing, 0)


def depthwise(option: str, channels: int, width: int, bias: bool = True, **factory: Any) -> nn.Conv2d | None:
    """A depth-wise convolution of `width`×`width` that preserves the grid size; None for a width of 0.

    Raises:
        ValueError: `width` is even or negative; the message starts with `option`, such as ``focused: conv``.
    """
    if width < 0 or (width and width % 2 == 0):
        raise ValueError(f"{option}={width} has no centre; use an odd width, or 0 for no convolution")
    if not width:
        return None
    return nn.Conv2d(channels, channels, width, padding=width // 2, groups=channels, bias=bias, **factory)


def convolve_patches(conv: nn.Module, x: Tensor, grid_size: Size | None, num_prefix_tokens: int) -> Tensor:
    """`conv` over the patches of tokens x [B, N, C], and 0 for the prefix tokens.

    Raises:
        ValueError: the number of tokens does not match the layout.
    """
    grid = rows_and_columns("a convolution of patches", x.shape[1], grid_size, num_prefix_tokens)
    patches = x[:, num_prefix_tokens:].transpose(1, 2).unflatten(2, grid)
    return F.pad(conv(patches).flatten(2).transpose(1, 2), (0, 0, num_prefix_tokens, 0))


def convolve_heads(conv: nn.Module, v: Tensor, grid_size: Size | None, num_prefix_tokens: int) -> Tensor:
    """`convolve_patches` of v [B, H, N, d], with one kernel shared by all heads."""
    return convolve_patches(conv, v.flatten(0, 1), grid_size, num_prefix_tokens).unflatten(0, v.shape[:2])


def rows_and_columns(user: str, tokens: int, grid_size: Size | None, num_prefix_tokens: int) -> Size:
    """`grid_size`, if `tokens` is the number of prefix tokens and patches.

    Raises:
        ValueError: it is not; the message names the `user` of the grid, such as ``a convolution of patches``.
    """
    rows, columns = grid_size or (0, 0)
    if tokens != num_prefix_tokens + rows * columns:
        raise ValueError(
            f"{user} got {tokens} tokens, but the layout is {num_prefix_tokens} prefix tokens and a grid of "
            f"{rows}×{columns}; call set_layout with the grid, or switch off what needs it"
        )
    return rows, columns
