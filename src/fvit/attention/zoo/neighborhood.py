"""Neighborhood attention: softmax attention of each patch to the w×w patches around it, with or without gaps.

Source: Hassani et al., "Neighborhood Attention Transformer", arXiv:2204.07143; gaps: Hassani and Shi, "Dilated
Neighborhood Attention Transformer", arXiv:2209.15001.

    out_n = softmax_{m ∈ ν(n)}(q_n k_mᵀ/√d [+ B_nm]) v_m

ν(n) are the w nearest rows and columns, moved inwards at the border, so every patch has w² neighbours; with a dilation
of δ, among the rows and columns that are a multiple of δ away. Where the grid has fewer, all of these are neighbours. B
is learned per head and relative position (`position_bias`, of the first paper's models; [2w − 1]² numbers). Prefix
tokens attend to all tokens and no patch attends to them, as in `window`.

Neighbours are gathered, so keys and values take w² times their memory. The fused kernels of NATTEN 0.20 or later do
without; where it is installed with them (extra `natten`), they are used on CUDA devices without B, masks and dropout,
if the grid has w·δ rows and columns and d is a multiple of 8. This was not run on a GPU: NATTEN's form for CPUs gives
the same results, and the tests replace NATTEN by a module with its interface.

Cost: O(N·w²·D) besides the four projections, and O(N·D) per prefix token.

Family: local.

Code: SHI-Labs/NATTEN (MIT).
"""

from typing import Any

import torch
from torch import Tensor, nn

from fvit.attention.ops import rows_and_columns
from fvit.attention.projected import Projected
from fvit.attention.registry import register

FUSED = ("cuda",)
"""Devices for which NATTEN has fused kernels."""


@register("neighborhood")
class NeighborhoodAttention(Projected):
    """Neighborhood attention. Other arguments as for `Projected`; `attn_drop` applies to the map.

    Args:
        window: side w of the neighbourhood in patches, odd.
        dilation: distance δ of the neighbours, at least 1.
        position_bias: add the relative position bias B.
    """

    needs_grid = True
    adds_conv = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        window: int = 7,
        dilation: int = 1,
        position_bias: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, **shared)
        if window < 1 or window % 2 == 0:
            raise ValueError(f"neighborhood: window={window} must be odd and positive, so that it has a centre")
        if dilation < 1:
            raise ValueError(f"neighborhood: dilation={dilation} must be at least 1")
        self.window, self.dilation = window, dilation
        self.has_kernels = _has_kernels()
        shape = (num_heads, 2 * window - 1, 2 * window - 1)
        self.position_bias = nn.Parameter(torch.empty(shape, **self.factory)) if position_bias else None
        self.init_weights()

    def init_weights(self) -> None:
        if self.position_bias is not None:
            nn.init.trunc_normal_(self.position_bias, std=0.02)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        rows_and_columns(type(self).__name__, x.shape[1], self.grid_size, self.num_prefix_tokens)
        q, k, v = self.heads(x)
        key_bias = self.key_bias(attn_mask, x)
        first = self.num_prefix_tokens
        patches = [t[:, :, first:] for t in (q, k, v)]
        if self._fits_kernels(q, key_bias):
            out = self._fused(*patches)
        else:
            out = self._gathered(*patches, None if key_bias is None else key_bias[..., first:])
        if first:
            prefix_bias = None if key_bias is None else key_bias.unsqueeze(1)
            out = torch.cat([self.sdpa(q[:, :, :first], k, v, prefix_bias), out], dim=2)
        return self.output(self.add_conv(out, v, attn_mask))

    def _gathered(self, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None) -> Tensor:
        """One softmax per patch, [B, H, P, d] each: patches lie beside heads, queries have length 1."""
        index_pw, bias = self._neighbours(q, key_bias)
        near_k, near_v = (t[:, :, index_pw].transpose(1, 2).flatten(1, 2) for t in (k, v))
        out = self.sdpa(q.transpose(1, 2).flatten(1, 2).unsqueeze(2), near_k, near_v, bias)
        return out.squeeze(2).unflatten(1, (-1, self.num_heads)).transpose(1, 2)

    def _fits_kernels(self, q: Tensor, key_bias: Tensor | None) -> bool:
        """Whether NATTEN's kernels compute this."""
        if not self.has_kernels or q.device.type not in FUSED or q.dtype == torch.float64 or self.head_dim % 8:
            return False
        if key_bias is not None or self.position_bias is not None or (self.training and self.attn_drop.p):
            return False
        return 1 < self.window <= min(self.grid_size) // self.dilation

    def _fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`_gathered` by NATTEN, whose layout is [B, rows, columns, H, d]."""
        import natten

        on_grid = (t.transpose(1, 2).unflatten(1, self.grid_size) for t in (q, k, v))
        return natten.na2d(*on_grid, kernel_size=self.window, dilation=self.dilation).flatten(1, 2).transpose(1, 2)

    def _neighbours(self, q: Tensor, key_bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The neighbours of each patch [P, w²], and what to add to their logits, [B or 1, P · H, 1, w²] or nothing."""
        columns = self.grid_size[1]
        (down_rw, far_rw, real_rw), (right_cw, far_cw, real_cw) = (self._along(size, q) for size in self.grid_size)
        index = (down_rw[:, None, :, None] * columns + right_cw[:, None]).flatten(2).flatten(0, 1)
        fewest = (size // self.dilation for size in self.grid_size)  # neighbours along an axis, apart from the window
        if key_bias is None and self.position_bias is None and all(n >= self.window for n in fewest):
            return index, None
        real = (real_rw[:, None, :, None] & real_cw[:, None]).flatten(2).flatten(0, 1)
        bias = torch.zeros_like(real, dtype=q.dtype).masked_fill(~real, float("-inf"))[:, None]
        if self.position_bias is not None:
            relative = self.position_bias[:, far_rw[:, None, :, None], far_cw[:, None]]
            bias = bias + relative.flatten(3).flatten(1, 2).transpose(0, 1)
        bias = bias.unsqueeze(0)
        if key_bias is not None:
            # Finite, so that the softmax is finite if all neighbours are hidden; half leaves room for the logits.
            bias = (bias + key_bias[:, 0, index].unsqueeze(2)).clamp(min=torch.finfo(q.dtype).min / 2)
        return index, bias.expand(-1, -1, self.num_heads, -1).flatten(1, 2).unsqueeze(2)

    def _along(self, size: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Along one axis, each [size, w]: the neighbours, their places in B, and whether they exist."""
        width, gap = min(self.window, -(-size // self.dilation)), self.dilation
        place = torch.arange(size, device=x.device)[:, None]
        offset, members = place % gap, (size - 1 - place % gap) // gap + 1
        start = (place // gap - self.window // 2).clamp(min=0).minimum((members - width).clamp(min=0))
        among = start + torch.arange(width, device=x.device)
        real = among < members
        among = among.minimum(members - 1)
        return offset + gap * among, among - place // gap + self.window - 1, real


def _has_kernels() -> bool:
    """Whether NATTEN is installed, and with its kernels: PyPI has it without."""
    try:
        import natten
    except ImportError:
        return False
    return natten.HAS_LIBNATTEN
