"""Agent attention: a few agent tokens, pooled from the queries, attend to all tokens, and all tokens attend to them.

Source: Han et al., "Agent Attention: On the Integration of Softmax and Linear Attention", arXiv:2312.08874.

    out = softmax(Q Aᵀ/√d [+ B₂]) softmax(A Kᵀ/√d [+ B₁]) V [+ DWC(V)],      A = pool(Q)

A are a agents: means of Q over √a × √a cells of the grid (torch's adaptive pooling, whose cells overlap where they
do not divide it). Prefix tokens are not pooled but take part in both softmaxes. A hidden token is left out of the
means and of the inner softmax, and is zero to DWC, like the border. An agent whose patches are all hidden is left out;
if all agents are, all take part equally.

The position biases are those of the authors' code: per head and agent a 7×7 map, interpolated bilinearly to the grid,
plus one number per row, one per column, and one shared by all prefix tokens. B₁ and B₂ have separate parameters. DWC is
a depth-wise w×w convolution with bias over the patches, without the prefix tokens.

Cost: O(N·a·D) besides the four projections; DWC adds O(N·D·w²). No saving on a grid of fewer than 2a patches.

Family: low rank.

Code: LeapLabTHU/Agent-Attention.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength, TokenLayout
from fvit.attention.ops import Size, divide, rows_and_columns
from fvit.attention.projected import Projected
from fvit.attention.registry import register
from fvit.attention.tables import LayoutTables, pooling_cells


@register("agent")
class AgentAttention(Projected):
    """Agent attention. Other arguments as for `Projected`; `attn_drop` applies to both maps.

    Args:
        num_agents: number a of agents, a square number.
        position_bias: add B₁ and B₂, which have parameters per row and column of the grid.
    """

    needs_grid = True
    adds_conv = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        num_agents: int = 49,
        position_bias: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, **shared)
        side = math.isqrt(max(num_agents, 0))
        if side**2 != num_agents or not side:
            near = f"{side**2} or {(side + 1) ** 2}" if side else "1"
            raise ValueError(f"agent: num_agents={num_agents} must be a square number, such as {near}")
        self.pool = GridPool(side, **self.factory)
        self.position_bias = PositionBias(num_heads, num_agents, **self.factory) if position_bias else None
        self.fixed_length = position_bias

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        bias_b1n, factor_bn1 = self.key_bias(attn_mask, x), self.mask_factor(attn_mask, x)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        agents_bac, bias_b1a = self._agents(q_bnc, factor_bn1)
        inner_han, outer_hna = (None, None) if self.position_bias is None else self.position_bias()
        q, k, v, agents = (self.split_heads(t) for t in (q_bnc, k_bnc, v_bnc, agents_bac))
        out = self._attend(q, agents, self._attend(agents, k, v, bias_b1n, inner_han), bias_b1a, outer_hna)
        return self.output(self.add_conv(out, v, attn_mask))

    def _agents(self, q_bnc: Tensor, factor_bn1: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The agents [B, a, C], and a bias [B or 1, 1, a] that hides those without patches."""
        if factor_bn1 is None:
            return self.pool(q_bnc), None
        weights_ba1 = self.pool(factor_bn1)
        agents_bac = divide(self.pool(q_bnc * factor_bn1), weights_ba1)
        # Finite, so that the softmax stays finite if no agent is left; half the minimum leaves room for the logits.
        bias_ba1 = torch.zeros_like(weights_ba1).masked_fill(weights_ba1 == 0, torch.finfo(q_bnc.dtype).min / 2)
        return agents_bac, bias_ba1.transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, key_bias_b1m: Tensor | None, bias_hnm: Tensor | None) -> Tensor:
        """softmax(QKᵀ/√d + biases) V for q [B, H, n, d] and k, v [B, H, m, d]."""
        key_bias = None if key_bias_b1m is None else key_bias_b1m.unsqueeze(1)
        biases = [bias for bias in (key_bias, bias_hnm) if bias is not None]
        return self.sdpa(q, k, v, sum(biases) if biases else None)


class GridPool(LayoutTables):
    """Means of the patches over √a × √a cells of the grid, as torch's adaptive pooling, [B, N, C] -> [B, a, C].

    By a product along the rows and one along the columns: on CUDA torch's own has no deterministic backward pass.
    """

    def __init__(self, side: int, **factory: Any) -> None:
        super().__init__(**factory)
        self.side = side

    def tables(self, grid_size: Size, num_prefix_tokens: int, **factory: Any) -> dict[str, Tensor]:
        """The share of each row or column in a cell's mean, [√a, rows] and [√a, columns]."""
        cells = (pooling_cells(self.side, size, **factory) for size in grid_size)
        return dict(zip(("rows", "columns"), (t / t.sum(dim=1, keepdim=True) for t in cells), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = rows_and_columns("a pooling of patches", x.shape[1], self.grid_size, self.num_prefix_tokens)
        along_rows = self.rows.to(x.dtype) @ x[:, self.num_prefix_tokens :].unflatten(1, (rows, columns)).flatten(2)
        return (self.columns.to(x.dtype) @ along_rows.unflatten(2, (columns, -1))).flatten(1, 2)


class Stretch(LayoutTables):
    """Maps stretched bilinearly to the grid, [..., side, side] -> [..., rows, columns], as `F.interpolate` does.

    By two products: on CUDA torch's own has no deterministic backward pass.
    """

    def __init__(self, side: int, **factory: Any) -> None:
        super().__init__(**factory)
        self.side = side

    def tables(self, grid_size: Size, num_prefix_tokens: int, **factory: Any) -> dict[str, Tensor]:
        """The weights of the map's rows and columns, [rows, side] and [side, columns]."""
        points = torch.eye(self.side, **factory).unsqueeze(0)
        rows, columns = (F.interpolate(points, size=size, mode="linear").squeeze(0) for size in grid_size)
        return {"rows": rows.mT.contiguous(), "columns": columns}

    def forward(self, maps: Tensor) -> Tensor:
        return self.rows.to(maps.dtype) @ maps @ self.columns.to(maps.dtype)


class PositionBias(FixedLength):
    """Biases on the logits between agents and tokens; sized, resampled and loaded as any weight of `FixedLength`."""

    token_axes: ClassVar = {"rows": (3,), "columns": (3,)}

    def __init__(self, num_heads: int, num_agents: int, **factory: Any) -> None:
        super().__init__(num_heads, num_heads, **factory)
        shape = (2, num_heads, num_agents)  # B₁, then B₂
        self.map = nn.Parameter(torch.empty(*shape, 7, 7, **factory))
        self.rows = nn.Parameter(torch.empty(*shape, 1, **factory))
        self.columns = nn.Parameter(torch.empty(*shape, 1, **factory))
        self.prefix = nn.Parameter(torch.empty(*shape, 1, **factory))
        self.stretch = Stretch(7, **factory)
        self.init_weights()

    def init_weights(self) -> None:
        for bias in self.parameters():
            nn.init.trunc_normal_(bias, std=0.02)

    def part(self, name: str, layout: TokenLayout) -> TokenLayout:
        return TokenLayout(1, layout.rows if name == "rows" else layout.columns, 0)

    def forward(self) -> tuple[Tensor, Tensor]:
        """B₁ [H, a, N] and B₂ [H, N, a]."""
        grid = self.stretch(self.map) + self.rows.unsqueeze(-1) + self.columns.unsqueeze(-2)
        prefix = self.prefix.expand(*self.prefix.shape[:-1], self.num_prefix_tokens)
        inner_han, outer_han = torch.cat([prefix, grid.flatten(3)], dim=-1)
        return inner_han, outer_han.mT
