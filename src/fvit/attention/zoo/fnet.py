"""Fourier mixing (FNet): a fixed Fourier transform over tokens and channels, without parameters.

Source: Lee-Thorp et al., "FNet: Mixing Tokens with Fourier Transforms", arXiv:2105.03824.

    out = Re FFT_N FFT_D x

Cost: O(N·D·(log N + log D)), no projections. The transforms run along the token sequence, prefix tokens included, and
along the channels. They are unnormalised as in the paper, so the output is about √(N·D) times as large as the input.
There are no heads and no attention map, so `num_heads` and `attn_drop` have no effect.

Family: Fourier.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fvit.attention.base import Mechanism
from fvit.attention.ops import Size, without_autocast
from fvit.attention.registry import register
from fvit.attention.tables import LayoutTables

LARGEST_RADIX = 13
"""The largest prime factor for which libraries have fast Fourier transforms; for others they pad, or sum directly."""
MOST_TOKENS = 600
"""With more tokens than this, transforms are faster than products whatever the factors. Measured on a CPU."""


@register("fnet")
class FNet(Mechanism):
    """FNet's mixing. Arguments as for `Mechanism`; half precision is transformed in float32.

    Raises:
        ValueError: a mask or causality is requested: the transform always covers all tokens.
    """

    def __init__(self, dim: int, num_heads: int = 8, **shared: Any) -> None:
        super().__init__(dim, num_heads, **shared)
        self.products = FourierProducts(**self.factory)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        if attn_mask is not None:
            raise ValueError("FNet transforms all tokens together and cannot hide one; use attention=softmax for masks")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        by_products = self.form == "auto" and self.products.apply_to(x)
        mixed = self.products(wide) if by_products else torch.fft.fft2(wide).real
        return self.proj_drop(mixed.to(x.dtype))


class FourierProducts(LayoutTables):
    """Re FFT_N FFT_D x by products with cosines and sines along the N tokens, which have a large prime factor.

    197 tokens, of an image of 14 × 14 patches and a class token, are a prime number. With z = FFT_D x

        out_nc = Σ_m cos(2π nm/N) Re z_mc + sin(2π nm/N) Im z_mc,      out_(N−n)c the same with a minus sign
        out_(N−n)(D−c) = out_nc,      indices modulo N and D, since x is real

    so a quarter of the products is computed, N²·D/2. Counted are those of the transform (`fvit.cost.count`).
    """

    def apply_to(self, x: Tensor) -> bool:
        """Whether products are faster than a transform of tokens x [B, N, C], and the layout is theirs."""
        return x.device.type != "meta" and self._buffers.get("cos") is not None and self.cos.shape[1] == x.shape[1]

    def tables(self, grid_size: Size, num_prefix_tokens: int, **factory: Any) -> dict[str, Tensor | None]:
        """Cosines and sines, [⌊N/2⌋ + 1, N], or with few prime factors none."""
        tokens = num_prefix_tokens + math.prod(grid_size)
        if tokens > MOST_TOKENS or _largest_factor(tokens) <= LARGEST_RADIX:
            return {"cos": None, "sin": None}
        rows, columns = torch.arange(tokens // 2 + 1, dtype=torch.float64), torch.arange(tokens, dtype=torch.float64)
        angles = 2 * math.pi / tokens * (rows[:, None] * columns % tokens)
        return {"cos": angles.cos().to(**factory), "sin": angles.sin().to(**factory)}

    def forward(self, x: Tensor) -> Tensor:
        (tokens, channels), z = x.shape[-2:], torch.fft.rfft(x)
        with without_autocast(x.device):
            even, odd = self.cos.to(x.dtype) @ z.real, self.sin.to(x.dtype) @ z.imag
        below = (even - odd)[:, 1 : (tokens + 1) // 2].flip(1)
        left = torch.cat([even + odd, below], dim=1)
        right = left.flip(1).roll(1, 1)[..., 1 : (channels + 1) // 2].flip(-1)
        return torch.cat([left, right], dim=-1)


def _largest_factor(number: int) -> int:
    """The largest prime factor of a number; 1 of 1."""
    factor = 2
    while factor * factor <= number:
        if number % factor:
            factor += 1
        else:
            number //= factor
    return number
