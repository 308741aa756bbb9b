"""Additive attention over regions: several global queries and keys, mixed by learned weights.

Source: ours, unpublished; after Wu et al., "Fastformer", arXiv:2108.09084, and MHLA, arXiv:2601.07832.

Fastformer's one global query and key give every token the same context. Here each region r of the grid has its own, and
each token reads a mixture of them (MHLA's idea, in additive form). Per head, with c(n, r) the share of token n in r:

    q̄_s = Σ_{n∈s} softmax_s(w_q·q_n/√d) q_n          Q_r = Σ_s M_rs q̄_s       p_n = (Σ_r c(n, r) Q_r) ⊙ k_n
    k̄_s = Σ_{n∈s} softmax_s(w_k·p_n/√d) p_n          K_r = Σ_s M'_rs k̄_s      g_n = Σ_r c(n, r) K_r
    out_n = W_t (g_n ⊙ v_n + DWC(v)_n) + b_t

The regions are cells of torch's adaptive pooling, which overlap where they do not divide the grid. Prefix tokens are in
all regions. M and M' [H, R, R] start as averages over near regions. DWC is a depth-wise w×w convolution with bias over
the patches; it leaves out prefix tokens, and a hidden patch is zero to it, like the border. The values v = W_v x + b_v
are the queries in Fastformer. With regions=1, conv=0, value="shared" and residual=True this is `additive`. What each
option brings is measured in docs/study.md.

Cost: O(N·R·D) besides the four projections; DWC adds O(N·D·w²).

Family: additive.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import Size, cast_once, convolve_patches, depthwise, rows_and_columns
from fvit.attention.registry import register
from fvit.attention.tables import LayoutTables, pooling_cells


@register("additive_plus")
class AdditivePlusAttention(Mechanism):
    """Additive attention over regions. Other arguments as for `Mechanism`; `attn_drop` applies to both softmaxes.

    Args:
        regions: number R of regions, a square number.
        gate: what multiplies the values: ``product``, g alone (Fastformer); or ``residual``, 1 + g.
        value: ``separate``, v = W_v x + b_v; or ``shared``, the query is the value (Fastformer).
        residual: add the query to the output (Fastformer).
        conv: width w of the depth-wise convolution on the values, odd; 0 for none.
    """

    needs_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        regions: int = 16,
        gate: Literal["product", "residual"] = "product",
        value: Literal["separate", "shared"] = "separate",
        residual: bool = False,
        conv: int = 3,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        side = math.isqrt(max(regions, 0))
        if side**2 != regions or not regions:
            near = f"{side**2} or {(side + 1) ** 2}" if side else "1"
            raise ValueError(f"additive_plus: regions={regions} must be a square number, such as {near}")
        for option, given, choices in (
            ("gate", gate, ("product", "residual")),
            ("value", value, ("separate", "shared")),
        ):
            if given not in choices:
                raise ValueError(f"additive_plus: {option}={given!r} must be one of {', '.join(choices)}")
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.k = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.v = nn.Linear(dim, dim, bias=qkv_bias, **self.factory) if value == "separate" else None
        self.query_logit = nn.Parameter(torch.empty(num_heads, self.head_dim, **self.factory))
        self.key_logit = nn.Parameter(torch.empty(num_heads, self.head_dim, **self.factory))
        self.regions = Regions(side, **self.factory)
        mixes = regions > 1
        self.query_mix = nn.Parameter(torch.empty(num_heads, regions, regions, **self.factory)) if mixes else None
        self.key_mix = nn.Parameter(torch.empty(num_heads, regions, regions, **self.factory)) if mixes else None
        self.transform = nn.Linear(dim, dim, **self.factory)
        self.conv = depthwise("additive_plus: conv", dim, conv, **self.factory)
        self.gate, self.residual = gate, residual
        self.init_weights()

    def init_weights(self) -> None:
        for weight in (self.query_logit, self.key_logit):
            nn.init.trunc_normal_(weight, std=0.02)
        for mix in (self.query_mix, self.key_mix):
            if mix is not None:
                with torch.no_grad():
                    mix.copy_(_near(self.regions.side).expand_as(mix))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        rows_and_columns(type(self).__name__, x.shape[1], self.grid_size, self.num_prefix_tokens)
        bias = self.key_bias(attn_mask, x)
        x = cast_once(x)
        q, k = self.q(x), self.k(x)
        v = q if self.v is None else self.v(x)
        p = self._context(self.split_heads(q), self.query_logit, self.query_mix, bias) * self.split_heads(k)
        gate = self.merge_heads(self._context(p, self.key_logit, self.key_mix, bias))
        out = v + gate * v if self.gate == "residual" else gate * v
        if self.conv is not None:
            present_v = v if bias is None else v * bias.exp().transpose(1, 2)
            out = out + convolve_patches(self.conv, present_v, self.grid_size, self.num_prefix_tokens)
        out = self.transform(out)
        return self.proj_drop(out + q if self.residual else out)

    def _context(self, t: Tensor, logit: Tensor, mix: Tensor | None, bias: Tensor | None) -> Tensor:
        """What each token reads, [B, H, N, d]: tokens t pooled in each region, mixed, and shared out."""
        logits = torch.einsum("bhnd,hd->bhn", t, logit) * self.scale
        logits = (logits if bias is None else logits + bias).unsqueeze(2)
        hidden = self.regions.members == 0
        if bias is not None:
            hidden = hidden | bias.isneginf().unsqueeze(2)
        # Finite, so that a region without visible tokens has no NaN; its weights are 0.
        weights = logits.masked_fill(hidden, torch.finfo(t.dtype).min).softmax(dim=-1).masked_fill(hidden, 0.0)
        pooled = self.attn_drop(weights) @ t
        mixed = pooled if mix is None else mix @ pooled
        return self.regions.shares.to(mixed.dtype) @ mixed


class Regions(LayoutTables):
    """Which tokens are in which of side × side regions: cells of torch's adaptive pooling, and all prefix tokens."""

    def __init__(self, side: int, **factory: Any) -> None:
        super().__init__(**factory)
        self.side = side

    def tables(self, grid_size: Size, num_prefix_tokens: int, **factory: Any) -> dict[str, Tensor]:
        """1 where a token is in a region, [R, N], and each region's share of a token, [N, R]."""
        rows, columns = (pooling_cells(self.side, size, **factory) for size in grid_size)
        patches = (rows[:, None, :, None] * columns[None, :, None, :]).reshape(self.side**2, -1)
        members = F.pad(patches, (num_prefix_tokens, 0), value=1.0)
        return {"members": members, "shares": (members / members.sum(dim=0)).mT.contiguous()}


def _near(side: int) -> Tensor:
    """Averages over regions with weights exp(-distance²/2), [R, R]."""
    points = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float().view(-1, 2)
    return (-torch.cdist(points, points).square() / 2).softmax(dim=-1)
