"""Agent attention: a few agents, pooled from the queries, attend to all tokens, and all tokens attend to them.

Source: Han et al., "Agent Attention: On the Integration of Softmax and Linear Attention", arXiv:2312.08874.

    out = softmax(Q Aᵀ/√d [+ B₂]) softmax(A Kᵀ/√d [+ B₁]) V [+ DWC(V)],      A = pool(Q)

A has a agents, the means of Q over a √a × √a division of the grid (torch's adaptive pooling, whose parts overlap where
they do not divide it). Prefix tokens lie on no grid and are in no mean, and take part in both softmaxes. A hidden token
is neither in the means nor in the inner softmax, and zero to DWC, as the border is. An agent all of whose patches are
hidden is 0 and left out; where all are, all take part alike.

The position biases are those of the published code: for each head and agent a map of 7×7 that is stretched bilinearly
over the grid, plus one number a row, one a column, and one for all prefix tokens together. B₁ and B₂ have their own.
DWC is a depth-wise w×w convolution with a bias over the patches; prefix tokens are left out of it.

Cost: O(N·a·D) besides the four projections; DWC adds O(N·D·w²). It saves nothing on a grid of fewer than 2a
patches.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength, Layout
from fvit.attention.ops import convolve_patches, depthwise, divide
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("agent")
class Agent(Projected):
    """Agent attention. Arguments as for `Projected`, `attn_drop` falls on both maps, and:

    Args:
        num_agents: the number a of agents, a square.
        position_bias: add B₁ and B₂, whose rows and columns are those of the grid.
        conv: width w of the depth-wise convolution on the values, odd; 0 for none.

    Raises:
        ValueError: an option is out of its range; the tokens do not fill the grid; a mask between pairs of tokens, or
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
        num_agents: int = 49,
        position_bias: bool = False,
        conv: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        side = math.isqrt(max(num_agents, 0))
        if side**2 != num_agents or not side:
            near = f"{side**2} or {(side + 1) ** 2}" if side else "1"
            raise ValueError(f"agent: num_agents={num_agents} is no square, and agents lie on one; take {near}")
        factory = dict(device=device, dtype=dtype)
        self.side = side
        self.conv = depthwise("agent: conv", dim, conv, **factory)
        self.position_bias = PositionBias(num_heads, num_agents, **factory) if position_bias else None
        self.fixed_length = position_bias

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        bias_b1n = self.key_bias(attn_mask, x)
        # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
        presence_bn1 = None if bias_b1n is None else bias_b1n.exp().transpose(1, 2)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        agents_bac, bias_b1a = self._agents(q_bnc, presence_bn1)
        inner_han, outer_hna = (None, None) if self.position_bias is None else self.position_bias()
        q, k, v, agents = (self.split_heads(t) for t in (q_bnc, k_bnc, v_bnc, agents_bac))
        out = self._attend(q, agents, self._attend(agents, k, v, bias_b1n, inner_han), bias_b1a, outer_hna)
        out = self.merge_heads(out)
        if self.conv is not None:
            v_bnc = v_bnc if presence_bn1 is None else v_bnc * presence_bn1
            out = out + convolve_patches(self.conv, v_bnc, self.grid_size, self.num_prefix_tokens)
        return self.proj_drop(self.proj(out))

    def _agents(self, q_bnc: Tensor, presence_bn1: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The agents [B, a, C], and a bias [B or 1, 1, a] on the logits of those that are there."""
        if presence_bn1 is None:
            return self._pooled(q_bnc), None
        weights_ba1 = self._pooled(presence_bn1)
        agents_bac = divide(self._pooled(q_bnc * presence_bn1), weights_ba1)
        # Where no agent is left, finite numbers keep the softmax finite, half the lowest also under logits.
        bias_ba1 = torch.zeros_like(weights_ba1).masked_fill(weights_ba1 == 0, torch.finfo(q_bnc.dtype).min / 2)
        return agents_bac, bias_ba1.transpose(1, 2)

    def _pooled(self, x: Tensor) -> Tensor:
        """The means of the patches in √a × √a parts of the grid, [B, N, C] -> [B, a, C]."""
        return F.adaptive_avg_pool2d(self.to_grid(x), self.side).flatten(2).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, key_bias_b1m: Tensor | None, bias_hnm: Tensor | None) -> Tensor:
        """softmax(QKᵀ/√d + biases) V for q [B, H, n, d] and k, v [B, H, m, d]."""
        key_bias = None if key_bias_b1m is None else key_bias_b1m.unsqueeze(1)
        biases = [bias for bias in (key_bias, bias_hnm) if bias is not None]
        dropout = self.attn_drop.p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, sum(biases) if biases else None, dropout_p=dropout)


class PositionBias(FixedLength):
    """What is added to the logits between agents and tokens; sized, resampled and loaded as `FixedLength` says.

    Args:
        num_heads: number of heads H.
        num_agents: number of agents a.
        device: where the parameters are made.
        dtype: their type.
    """

    token_axes: ClassVar = {"rows": (3,), "columns": (3,)}

    def __init__(
        self,
        num_heads: int,
        num_agents: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_heads, num_heads)
        # Of B₁ and B₂, in this order.
        shape, factory = (2, num_heads, num_agents), dict(device=device, dtype=dtype)
        self.map = nn.Parameter(torch.empty(*shape, 7, 7, **factory))
        self.rows = nn.Parameter(torch.empty(*shape, 1, **factory))
        self.columns = nn.Parameter(torch.empty(*shape, 1, **factory))
        self.prefix = nn.Parameter(torch.empty(*shape, 1, **factory))
        self.init_weights()

    def init_weights(self) -> None:
        """Draw all from N(0, 0.02²), truncated, as the authors do."""
        for bias in self.parameters():
            nn.init.trunc_normal_(bias, std=0.02)

    def part(self, name: str, layout: Layout) -> Layout:
        """The rows or the columns, as a grid of one row."""
        return Layout(1, layout.rows if name == "rows" else layout.columns, 0)

    def forward(self) -> tuple[Tensor, Tensor]:
        """B₁ [H, a, N] and B₂ [H, N, a]."""
        stretched = F.interpolate(self.map.flatten(0, 1), size=self.grid_size, mode="bilinear")
        grid = stretched.unflatten(0, self.map.shape[:2]) + self.rows.unsqueeze(-1) + self.columns.unsqueeze(-2)
        prefix = self.prefix.expand(*self.prefix.shape[:-1], self.num_prefix_tokens)
        inner_han, outer_han = torch.cat([prefix, grid.flatten(3)], dim=-1)
        return inner_han, outer_han.mT
