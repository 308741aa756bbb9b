"""Queries that a mask leaves no key: 0 from every mechanism, as SDPA's softmax gives, where others would have 0/0."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def zero_fully_masked(method: Callable[..., Any]) -> Callable[..., Any]:
    """A mechanism's `forward` or `weights`, with 0 for queries from which all heads hide all keys.

    Inside the method these queries see every key, so values and gradients are finite without a guard in each formula.
    False hides a key, and so does -inf, or any float whose exponential is 0 or so near 0 that gradients would overflow:
    below -78 in float32.
    """

    @functools.wraps(method)
    def guarded(self: Any, x: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        if attn_mask is None:
            return method(self, x, attn_mask, *args, **kwargs)
        if attn_mask.dtype == torch.bool:
            hidden = ~attn_mask
        else:
            hidden = attn_mask < 0.9 * math.log(torch.finfo(torch.promote_types(x.dtype, torch.float32)).tiny)
        blind = hidden.all(dim=-1, keepdim=True)  # [B or 1, H or 1, N or 1, 1], or without the first axes
        if blind.ndim > 2:
            blind = blind.all(dim=-3, keepdim=True)
        out = method(self, x, attn_mask.masked_fill(blind, attn_mask.dtype == torch.bool), *args, **kwargs)
        if isinstance(out, dict):  # weights [B, H, N] of all queries, or [B, H, N, N]
            return {name: w.masked_fill(blind if w.ndim == 4 else blind.squeeze(-1), 0) for name, w in out.items()}
        return out.masked_fill(blind.squeeze(-3) if blind.ndim > 2 else blind, 0)

    return guarded
