"""Synthesizer: a softmax map computed from each query alone, or learned directly, without query-key products.

Source: Tay et al., "Synthesizer: Rethinking Self-Attention in Transformer Models", arXiv:2005.00743, section 3.

    out = W_o softmax(B) V,      for each head
    dense               B_i = ReLU(q_i) W + b,      q = W_q x + b_q, W [d, N]
    factorised_dense    B_ij = α_i,r(j) · β_i,c(j),      α and β computed like B of dense, for row r and column c of j
    random              B = R, learned, the same for all images
    factorised_random   B = R₁ R₂ᵀ,      R₁ and R₂ [N, k]

The paper factorises N into any two numbers; here they are the sides of the grid, and a prefix token has an α of its own
and β = 1. As in the authors' code W_q takes the place of softmax attention's query projection, and the logits are not
scaled.

Released code: has one W for all heads in dense, without b, and no factorised_dense.

Cost: O(N²·D) besides the projections, of which dense has three and random two; twice that for dense, which runs through
SDPA with W as its keys. The others build their map: a random one serves all images, and that of factorised_dense is not
a product of queries and keys narrower than N.

Family: softmax.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength, TokenLayout
from fvit.attention.ops import cast_once
from fvit.attention.registry import register

KINDS = {
    "dense": {"logit_weight": (2,), "logit_bias": (1,)},
    "factorised_dense": {"row_weight": (2,), "row_bias": (1,), "column_weight": (2,), "column_bias": (1,)},
    "random": {"logits": (1, 2)},
    "factorised_random": {"query_factor": (1,), "key_factor": (1,)},
}
"""The parameters of each kind's logits, and their axes that run over tokens, rows or columns."""


@register("synthesizer")
class SynthesizerAttention(FixedLength):
    """Synthesizer. Other arguments as for `Projected`; `attn_drop` applies to the map.

    Args:
        kind: how the logits are computed.
        rank: k of ``factorised_random``; None for the paper's 8.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        proj_bias: bool = True,
        kind: Literal["dense", "factorised_dense", "random", "factorised_random"] = "dense",
        rank: int | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_bias=proj_bias, **shared)
        if kind not in KINDS:
            raise ValueError(f"synthesizer: kind={kind!r} must be one of {', '.join(KINDS)}")
        if rank is not None and kind != "factorised_random":
            raise ValueError(f"synthesizer: rank={rank} has no effect with kind={kind}; use null")
        if rank is not None and rank < 1:
            raise ValueError(f"synthesizer: rank={rank} must be at least 1, or null for 8")
        self.kind, self.rank = kind, rank or 8
        self.token_axes = KINDS[kind]
        self.needs_grid = kind == "factorised_dense"
        widths = {"weight": (self.head_dim, 1), "bias": (1,), "logits": (1, 1), "factor": (1, self.rank)}
        for name in self.token_axes:
            shape = (num_heads, *widths[name.rpartition("_")[2]])
            self.register_parameter(name, nn.Parameter(torch.empty(shape, **self.factory)))
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **self.factory) if kind.endswith("dense") else None
        self.v = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **self.factory)

    def init_weights(self) -> None:
        """As timm initialises Linears, and R₁ and R₂ such that their product has the same σ."""
        super().init_weights()
        if self.kind == "factorised_random":
            for factor in (self.query_factor, self.key_factor):
                nn.init.trunc_normal_(factor, std=(0.02 / self.rank**0.5) ** 0.5)

    def part(self, name: str, layout: TokenLayout) -> TokenLayout:
        if name.startswith("row_"):
            return TokenLayout(layout.rows, 1, layout.prefix)
        return TokenLayout(1, layout.columns, 0) if name.startswith("column_") else layout

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        x = cast_once(x)
        v = self.split_heads(self.v(x))
        out = self._attend(x, v, attn_mask) if self.kind == "dense" else self.attn_drop(self._map(x, attn_mask)) @ v
        return self.proj_drop(self.proj(self.merge_heads(out)))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        self.refuse_causal(is_causal)
        return {"map": self._map(x, attn_mask).expand(x.shape[0], -1, -1, -1)}

    def _attend(self, x: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
        """softmax(ReLU(q) W + b) v by SDPA, without building the map, [B, H, N, d]."""
        self.check_length(x)
        bias = self.key_bias(attn_mask, x)
        # b multiplies an extra channel of ones, since a mask with a gradient would rule out SDPA's fused kernels.
        q = F.pad(F.relu(self.split_heads(self.q(x))), (0, 1), value=1.0)
        k = torch.cat([self.logit_weight, self.logit_bias.unsqueeze(1)], dim=1).mT.contiguous()
        mask = None if bias is None else bias.unsqueeze(1)
        out = self.sdpa(q, k.expand(x.shape[0], -1, -1, -1), F.pad(v, (0, 1)), mask, scale=1.0)
        return out[..., :-1]

    def _map(self, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        """softmax(B), [B, H, N, N], or [H, N, N] if shared by all images."""
        self.check_length(x)
        bias = self.key_bias(attn_mask, x)
        logits_bhnn = self._logits(x)
        return (logits_bhnn if bias is None else logits_bhnn + bias.unsqueeze(1)).softmax(dim=-1)

    def _logits(self, x: Tensor) -> Tensor:
        """B, [B, H, N, N], or [H, N, N] if shared by all images."""
        if self.kind == "random":
            return self.logits
        if self.kind == "factorised_random":
            return self.query_factor @ self.key_factor.transpose(-2, -1)
        q = F.relu(self.split_heads(self.q(x)))
        if self.kind == "dense":
            return q @ self.logit_weight + self.logit_bias.unsqueeze(1)
        of_columns = q @ self.column_weight + self.column_bias.unsqueeze(1)
        of_prefix, of_rows = (q @ self.row_weight + self.row_bias.unsqueeze(1)).split(
            [self.num_prefix_tokens, self.grid_size[0]], dim=-1
        )
        of_patches = (of_rows.unsqueeze(-1) * of_columns.unsqueeze(-2)).flatten(-2)
        return torch.cat([of_prefix, of_patches], dim=-1)
