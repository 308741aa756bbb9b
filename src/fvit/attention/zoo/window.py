"""Window attention (Swin): softmax attention within local windows, shifted by half a window in every second block.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv:2103.14030,
equations 3 and 4.

    out_i = Σ_j softmax_j(q_i·k_j/√d [+ B_ij]) v_j,      j in the window of i

Windows are w × w patches starting at the grid's upper left corner; in blocks 1, 3, … they are shifted by ⌊w/2⌋ down and
right, which leaves smaller windows at the borders. On a grid not larger than w there is one window, the grid, without a
shift. As in the paper, the shift is a cyclic roll of the grid with a mask between patches that it brings together; a
grid that windows do not divide is padded with cells that no patch sees.

B, one number per head for each of the (2w − 1)² offsets between two patches of a window, is part of the paper's formula
but off by default: unlike Swin the hosts have position embeddings, and windows and positions are separate ablations.

Prefix tokens belong to no window. Their queries see all tokens, in one softmax, so a head may read the class token. No
patch sees a prefix token: that would carry global information into all windows of the next block, and shifted windows
are meant to show what local attention achieves.

Cost: O(N·w²·D) besides the four projections, and O(N·D) per prefix token.

Family: local.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import Size, rows_and_columns
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("window")
class WindowAttention(Projected):
    """Swin's attention. Other arguments as for `Projected`; `attn_drop` applies to the maps.

    Args:
        window: side w of the windows, in patches; positive.
        position_bias: add the relative position bias B.
    """

    needs_grid = True
    adds_conv = True

    def __init__(
        self, dim: int, num_heads: int = 8, *, window: int = 7, position_bias: bool = False, **shared: Any
    ) -> None:
        super().__init__(dim, num_heads, **shared)
        if window < 1:
            raise ValueError(f"window: window={window} must be at least 1")
        self.window = window
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
        key_bias_b11n = None if key_bias is None else key_bias.unsqueeze(1)
        first = self.num_prefix_tokens
        # Windows lie beside heads, so that a mask between patches is the same for all images and need not be repeated.
        windows = (self._partition(t[:, :, first:]) for t in (q, k, v))
        out = self._merge(self.sdpa(*windows, self._window_bias(key_bias_b11n, q)))
        if first:
            out = torch.cat([self.sdpa(q[:, :, :first], k, v, key_bias_b11n), out], dim=2)
        return self.output(self.add_conv(out, v, attn_mask))

    def _geometry(self) -> tuple[Size, Size, Size]:
        """Side, number and shift of the windows, each along rows and columns."""
        sides, counts, shifts = zip(*map(self._along, self.grid_size), strict=True)
        return sides, counts, shifts

    def _along(self, size: int) -> tuple[int, int, int]:
        if size <= self.window:
            return size, 1, 0
        return self.window, -(-size // self.window), self.window // 2 * (self.block_index % 2)

    def _partition(self, x: Tensor) -> Tensor:
        """Patches grouped by window, padded with 0, [B, c, rows · columns, e] -> [B, windows · c, side · side, e]."""
        sides, counts, shifts = self._geometry()
        missing = [side * count - size for side, count, size in zip(sides, counts, self.grid_size, strict=True)]
        grid = F.pad(x.unflatten(2, self.grid_size), (0, 0, 0, missing[1], 0, missing[0]))
        grid = grid.roll((-shifts[0], -shifts[1]), (2, 3))
        windows = grid.unflatten(3, (counts[1], sides[1])).unflatten(2, (counts[0], sides[0]))
        return windows.permute(0, 2, 4, 1, 3, 5, 6).flatten(1, 3).flatten(2, 3)

    def _merge(self, x: Tensor) -> Tensor:
        """The inverse of `_partition`, [B, windows · c, side · side, e] -> [B, c, rows · columns, e]."""
        sides, counts, shifts = self._geometry()
        windows = x.unflatten(2, sides).unflatten(1, (*counts, -1))
        grid = windows.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3).roll(shifts, (2, 3))
        return grid[:, :, : self.grid_size[0], : self.grid_size[1]].flatten(2, 3)

    def _window_bias(self, key_bias_b11n: Tensor | None, q: Tensor) -> Tensor | None:
        """B plus masks, to add to the logits within windows, [B or 1, windows · H, side², side²]."""
        sides, counts, shifts = self._geometry()
        bias = None if self.position_bias is None else self._relative_bias(sides)
        padded = any(side * count > size for side, count, size in zip(sides, counts, self.grid_size, strict=True))
        if key_bias_b11n is None and not padded and not any(shifts):
            return None if bias is None else bias.repeat(1, math.prod(counts), 1, 1)
        masks = self._masks_between_regions(shifts, q)
        if key_bias_b11n is not None:
            keys = self._partition(key_bias_b11n[..., self.num_prefix_tokens :].transpose(2, 3)).transpose(2, 3)
            masks = masks + keys
        # [B or 1, windows, 1, …] and [1, 1, H, …]
        bias = bias.unsqueeze(1) if bias is not None else masks.new_zeros(1, 1, self.num_heads, 1, 1)
        bias = (masks.unsqueeze(2) + bias).flatten(1, 2)
        # Finite, so that the softmax of a fully hidden window is finite; half the minimum leaves room for the logits.
        return bias.to(q.dtype).clamp(min=torch.finfo(q.dtype).min / 2)

    def _relative_bias(self, sides: Size) -> Tensor:
        """B for all pairs of patches in a window, [1, H, side², side²]."""
        places = [torch.arange(side, device=self.position_bias.device) for side in sides]
        down, right = (place[:, None] - place + self.window - 1 for place in places)
        pairs = self.position_bias[:, down[:, None, :, None], right[None, :, None, :]]
        return pairs.flatten(3).flatten(1, 2).unsqueeze(0)

    def _masks_between_regions(self, shifts: Size, x: Tensor) -> Tensor:
        """0 between cells of a window that are contiguous on the grid, else -inf, [1, windows, side², side²]."""
        rows, columns = (
            torch.where(torch.arange(size, device=x.device) < shift, 1.0, 2.0)
            for size, shift in zip(self.grid_size, shifts, strict=True)
        )
        # Four regions, by what the roll wraps around in either direction; padding is region 0.
        regions = (3 * rows[:, None] + columns).flatten()[None, None, :, None]
        regions = self._partition(regions)
        return torch.where(regions == regions.transpose(2, 3), 0.0, float("-inf")).to(x.dtype)
