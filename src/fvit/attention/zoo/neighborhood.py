"""Neighborhood attention: softmax attention of each patch to the w×w patches around it, with or without gaps.

Source: Hassani et al., "Neighborhood Attention Transformer", arXiv:2204.07143; gaps: Hassani and Shi, "Dilated
Neighborhood Attention Transformer", arXiv:2209.15001.

    out_n = softmax_{m ∈ ν(n)}(q_n k_mᵀ/√d [+ B_nm]) v_m

ν(n) are the w nearest rows and columns, moved inwards at the border, so every patch has w² neighbours; with a dilation
of δ, among the rows and columns that are a multiple of δ away. Where the grid has fewer, all of these are neighbours. B
is learned per head and relative position (`position_bias`, of the first paper's models; [2w − 1]² numbers). Prefix
tokens attend to all tokens and no patch attends to them, as in `window`.

Neighbours are gathered, so keys and values take w² times their memory: the fused kernels of NATTEN do without.

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
        index_pw, bias = self._neighbours(q, None if key_bias is None else key_bias[..., first:])
        # One softmax per patch: patches lie beside heads, queries have length 1.
        near_k, near_v = (t[:, :, first:][:, :, index_pw].transpose(1, 2).flatten(1, 2) for t in (k, v))
        one_q = q[:, :, first:].transpose(1, 2).flatten(1, 2).unsqueeze(2)
        out = self.sdpa(one_q, near_k, near_v, bias)
        out = out.squeeze(2).unflatten(1, (-1, self.num_heads)).transpose(1, 2)
        if first:
            prefix_bias = None if key_bias is None else key_bias.unsqueeze(1)
            out = torch.cat([self.sdpa(q[:, :, :first], k, v, prefix_bias), out], dim=2)
        return self.output(self.add_conv(out, v, attn_mask))

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
