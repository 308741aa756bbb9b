"""Window attention: softmax attention inside windows of patches, which in every second block lie shifted by half.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv:2103.14030,
equations 3 and 4.

    out_i = Σ_j softmax_j(q_i·k_j/√d [+ B_ij]) v_j,      j in the window of i

Windows are w × w patches from the grid's upper left corner; in blocks 1, 3, … they lie ⌊w/2⌋ further down and right,
and what is left at the borders makes smaller ones. Where a grid is not larger than w, the window is as large as the
grid and lies still. The shift is computed as in the paper, by rolling the grid, with a mask between what the roll
brought together; a grid that windows do not divide is filled up with cells that no patch sees.

B, a number for each head and each of the (2w − 1)² distances between two patches of a window, is part of the paper's
formula and not of the default here: the hosts have position embeddings, which Swin has not, and window and positions
are two things to try.

Prefix tokens lie in no window. Their queries see all tokens, in one softmax, so that a head may read the class token.
No patch sees a prefix token: that would pass what it gathered on to all windows in the next block, where windows that
shift are to show what local attention does.

Cost: O(N·w²·D) besides the four projections, and O(N·D) for each prefix token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Size
from fvit.attention.ops import rows_and_columns
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("window")
class Window(Projected):
    """Swin's attention. Arguments as for `Projected`, `attn_drop` falls on the maps, and:

    Args:
        window: side w of the windows, in patches.
        position_bias: add the relative position bias B.

    Raises:
        ValueError: `window` is not positive; the tokens do not fill the grid; a mask between pairs of tokens, or
            causality, is asked for.
    """

    needs_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        window: int = 7,
        position_bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        if window < 1:
            raise ValueError(f"window: window={window} holds no patch; take a side of 1 or more")
        self.window = window
        distances = 2 * window - 1
        self.position_bias = (
            nn.Parameter(torch.empty(num_heads, distances, distances, device=device, dtype=dtype))
            if position_bias
            else None
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Draw B as the authors do, from N(0, 0.02²), truncated."""
        if self.position_bias is not None:
            nn.init.trunc_normal_(self.position_bias, std=0.02)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        rows_and_columns("Window", x.shape[1], self.grid_size, self.num_prefix_tokens)
        q, k, v = self.heads(x)
        key_bias = self.key_bias(attn_mask, x)
        key_bias_b11n = None if key_bias is None else key_bias.unsqueeze(1)
        first = self.num_prefix_tokens
        windows = (self._partition(t[:, :, first:]) for t in (q, k, v))
        out = self._merge(self._attend(*windows, self._window_bias(key_bias_b11n, q)), x.shape[0])
        if first:
            out = torch.cat([self._attend(q[:, :, :first], k, v, key_bias_b11n), out], dim=2)
        return self.output(out)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        dropout = self.attn_drop.p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, bias, dropout_p=dropout)

    def _geometry(self) -> tuple[Size, Size, Size]:
        """Along rows and columns: the side of the windows, their number, and their shift."""
        sides, counts, shifts = zip(*map(self._along, self.grid_size), strict=True)
        return sides, counts, shifts

    def _along(self, size: int) -> tuple[int, int, int]:
        if size <= self.window:
            return size, 1, 0
        return self.window, -(-size // self.window), self.window // 2 * (self.block_index % 2)

    def _partition(self, x: Tensor) -> Tensor:
        """Patches in their windows, [B, c, rows · columns, e] -> [B · windows, c, side · side, e], filled up with 0."""
        sides, counts, shifts = self._geometry()
        missing = [side * count - size for side, count, size in zip(sides, counts, self.grid_size, strict=True)]
        grid = F.pad(x.unflatten(2, self.grid_size), (0, 0, 0, missing[1], 0, missing[0]))
        grid = grid.roll((-shifts[0], -shifts[1]), (2, 3))
        windows = grid.unflatten(3, (counts[1], sides[1])).unflatten(2, (counts[0], sides[0]))
        return windows.permute(0, 2, 4, 1, 3, 5, 6).flatten(0, 2).flatten(2, 3)

    def _merge(self, x: Tensor, batch: int) -> Tensor:
        """The way back, [B · windows, c, side · side, e] -> [B, c, rows · columns, e]."""
        sides, counts, shifts = self._geometry()
        windows = x.unflatten(2, sides).unflatten(0, (batch, *counts))
        grid = windows.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3).roll(shifts, (2, 3))
        return grid[:, :, : self.grid_size[0], : self.grid_size[1]].flatten(2, 3)

    def _window_bias(self, key_bias_b11n: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the logits in the windows: B, and masks; broadcasts to [B · windows, H, side², side²]."""
        sides, counts, shifts = self._geometry()
        bias = None if self.position_bias is None else self._relative_bias(sides)
        filled = any(side * count > size for side, count, size in zip(sides, counts, self.grid_size, strict=True))
        if key_bias_b11n is None and not filled and not any(shifts):
            return bias
        masks = self._masks_between_regions(shifts, q)
        if key_bias_b11n is not None:
            keys = self._partition(key_bias_b11n[..., self.num_prefix_tokens :].transpose(2, 3)).transpose(2, 3)
            masks = masks.repeat(keys.shape[0] // masks.shape[0], 1, 1, 1) + keys
        bias = masks if bias is None else masks + bias
        # A window may be hidden as a whole; finite numbers keep its softmax finite, half the lowest also under logits.
        bias = bias.to(q.dtype).clamp(min=torch.finfo(q.dtype).min / 2)
        images = q.shape[0] * counts[0] * counts[1] // bias.shape[0]
        return bias.expand(images, *bias.shape).flatten(0, 1)

    def _relative_bias(self, sides: Size) -> Tensor:
        """B for the pairs of patches of a window, [1, H, side², side²]."""
        places = [torch.arange(side, device=self.position_bias.device) for side in sides]
        down, right = (place[:, None] - place + self.window - 1 for place in places)
        pairs = self.position_bias[:, down[:, None, :, None], right[None, :, None, :]]
        return pairs.flatten(3).flatten(1, 2).unsqueeze(0)

    def _masks_between_regions(self, shifts: Size, x: Tensor) -> Tensor:
        """0 between cells of a window that are neighbours on the grid, and else -inf, [windows, 1, side², side²]."""
        rows, columns = (
            torch.where(torch.arange(size, device=x.device) < shift, 1.0, 2.0)
            for size, shift in zip(self.grid_size, shifts, strict=True)
        )
        # Four regions by what the roll carries over in either direction, and 0, with which windows are filled up.
        regions = (3 * rows[:, None] + columns).flatten()[None, None, :, None]
        regions = self._partition(regions)
        return torch.where(regions == regions.transpose(2, 3), 0.0, float("-inf")).to(x.dtype)
