"""Permute-MLP (ViP): linear layers along the height, the width and the channels, combined by learned weights.

Source: Hou et al., "Vision Permutator: A Permutable MLP-Like Architecture for Visual Recognition", arXiv:2106.12368,
the weighted Permute-MLP, which all its models use.

    out = W_o (a_h ⊙ h + a_w ⊙ w + a_c ⊙ c)         h = P_h x + b_h,  w = P_w x + b_w,  c = W_c x + b_c
    (a_h, a_w, a_c) = softmax over the three of W₂ GELU(W₁ mean(h + w + c) + b₁) + b₂, channel by channel

The channels are split into g segments of S = C / g. P_h maps the S channels of all patches of one column, rows·S
numbers, to as many, with the same weights for all columns and segments; P_w does so along the rows. The paper has as
many segments as rows and columns, so P_h and P_w are C × C like W_c; here g is free, since not every grid divides the
width. There are no heads and no attention map, so `num_heads` and `attn_drop` have no effect.

Prefix tokens become 0, so a residual block leaves them unchanged: the three weights alone could inform them of the
patches, too little to classify by, and ViP classifies by the mean of the patches. A hidden patch is zero to P_h and P_w
and left out of the mean. For another grid P_h is resampled along the height and P_w along the width.

Cost: O(N·D·(rows + columns)·S) besides two projections.

Family: MLP.

Code: houqb/VisionPermutator (MIT).
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength, TokenLayout, resample_tokens
from fvit.attention.ops import divide
from fvit.attention.registry import register


@register("permute_mlp")
class PermuteMLP(FixedLength):
    """Vision Permutator's layer. Other arguments as for `Projected`.

    Args:
        segments: number g of segments, a divisor of `dim`; None for 16, as in the paper's ViP-Small/14, or the greatest
            common divisor of 16 and `dim`.
    """

    needs_grid = True
    reaches_prefix = False

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        proj_bias: bool = True,
        segments: int | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_bias=proj_bias, **shared)
        segments = math.gcd(dim, 16) if segments is None else segments
        if segments < 1 or dim % segments:
            divisors = [n for n in range(1, dim + 1) if dim % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - segments))[:3])
            raise ValueError(
                f"permute_mlp: width {dim} is not divisible by {segments} segments; "
                f"use segments={' or '.join(map(str, near))}"
            )
        self.segments = segments
        self.segment_dim = dim // segments
        self.mlp_h = nn.Linear(self.segment_dim, self.segment_dim, bias=qkv_bias, **self.factory)
        self.mlp_w = nn.Linear(self.segment_dim, self.segment_dim, bias=qkv_bias, **self.factory)
        self.mlp_c = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        hidden = max(dim // 4, 1)
        self.reweight = nn.Sequential(
            nn.Linear(dim, hidden, **self.factory), nn.GELU(), nn.Linear(hidden, 3 * dim, **self.factory)
        )
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **self.factory)
        self.token_axes: Mapping[str, tuple[int, ...]] = {
            f"{name}.{kind}": axes
            for name in ("mlp_h", "mlp_w")
            for kind, axes in (("weight", (0, 1)), ("bias", (0,)))
            if kind == "weight" or qkv_bias
        }

    def part(self, name: str, layout: TokenLayout) -> TokenLayout:
        return TokenLayout(1, layout.rows if name.startswith("mlp_h") else layout.columns, 0)

    def shape(self, name: str, layout: TokenLayout) -> tuple[int, ...]:
        """[n·S, n·S] for a weight and [n·S] for a bias, with n rows or columns."""
        size = self.part(name, layout).tokens * self.segment_dim
        return (size,) * len(self.token_axes[name])

    def resample(self, name: str, tensor: Tensor, old: TokenLayout, new: TokenLayout) -> Tensor:
        old, new = self.part(name, old), self.part(name, new)
        for axis in self.token_axes[name]:
            tensor = tensor.unflatten(axis, (old.tokens, self.segment_dim))
            # Axis 1 is the input axis, over which the layer sums.
            tensor = resample_tokens(tensor, axis, old, new, keep_sum=axis == 1).flatten(axis, axis + 1)
        return tensor

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        self.check_length(x)
        bias = self.key_bias(attn_mask, x)
        presence = x.new_ones(1, x.shape[1], 1) if bias is None else bias.exp().transpose(1, 2)
        presence, x = (self.to_grid(t).permute(0, 2, 3, 1) for t in (presence, x * presence))
        h = self._mix(self.mlp_h, x.transpose(1, 2)).transpose(1, 2)
        w = self._mix(self.mlp_w, x)
        c = self.mlp_c(x)
        mean_bc = divide(((h + w + c) * presence).sum(dim=(1, 2)), presence.sum(dim=(1, 2)))
        weights = self.reweight(mean_bc).unflatten(-1, (self.dim, 3)).softmax(dim=-1)[:, None, None].to(c.dtype)
        mixed = h * weights[..., 0] + w * weights[..., 1] + c * weights[..., 2]
        return self.proj_drop(self.from_grid(self.proj(mixed).permute(0, 3, 1, 2)))

    def _mix(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """`linear` along the third axis of [B, m, n, C], per segment."""
        segments = x.unflatten(-1, (self.segments, self.segment_dim)).transpose(2, 3)
        return linear(segments.flatten(3)).unflatten(-1, (x.shape[2], -1)).transpose(2, 3).flatten(3)
