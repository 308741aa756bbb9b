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
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength, TokenLayout
from fvit.attention.ops import divide
from fvit.attention.projected import Projected
from fvit.attention.registry import register


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
        self.side = side
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
            return self._pool(q_bnc), None
        weights_ba1 = self._pool(factor_bn1)
        agents_bac = divide(self._pool(q_bnc * factor_bn1), weights_ba1)
        # Finite, so that the softmax stays finite if no agent is left; half the minimum leaves room for the logits.
        bias_ba1 = torch.zeros_like(weights_ba1).masked_fill(weights_ba1 == 0, torch.finfo(q_bnc.dtype).min / 2)
        return agents_bac, bias_ba1.transpose(1, 2)

    def _pool(self, x: Tensor) -> Tensor:
        """Means of the patches over √a × √a cells of the grid, [B, N, C] -> [B, a, C]."""
        return F.adaptive_avg_pool2d(self.to_grid(x), self.side).flatten(2).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, key_bias_b1m: Tensor | None, bias_hnm: Tensor | None) -> Tensor:
        """softmax(QKᵀ/√d + biases) V for q [B, H, n, d] and k, v [B, H, m, d]."""
        key_bias = None if key_bias_b1m is None else key_bias_b1m.unsqueeze(1)
        biases = [bias for bias in (key_bias, bias_hnm) if bias is not None]
        return self.sdpa(q, k, v, sum(biases) if biases else None)


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
        self.init_weights()

    def init_weights(self) -> None:
        for bias in self.parameters():
            nn.init.trunc_normal_(bias, std=0.02)

    def part(self, name: str, layout: TokenLayout) -> TokenLayout:
        return TokenLayout(1, layout.rows if name == "rows" else layout.columns, 0)

    def forward(self) -> tuple[Tensor, Tensor]:
        """B₁ [H, a, N] and B₂ [H, N, a]."""
        stretched = F.interpolate(self.map.flatten(0, 1), size=self.grid_size, mode="bilinear")
        grid = stretched.unflatten(0, self.map.shape[:2]) + self.rows.unsqueeze(-1) + self.columns.unsqueeze(-2)
        prefix = self.prefix.expand(*self.prefix.shape[:-1], self.num_prefix_tokens)
        inner_han, outer_han = torch.cat([prefix, grid.flatten(3)], dim=-1)
        return inner_han, outer_han.mT
