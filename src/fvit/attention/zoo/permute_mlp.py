"""Permute-MLP: linear layers along the height, along the width and along the channels, weighed against each other.

Source: Hou et al., "Vision Permutator: A Permutable MLP-Like Architecture for Visual Recognition", arXiv:2106.12368,
the weighted Permute-MLP, which all its models use.

    out = W_o (a_h ⊙ h + a_w ⊙ w + a_c ⊙ c)         h = P_h x + b_h,  w = P_w x + b_w,  c = W_c x + b_c
    (a_h, a_w, a_c) = softmax over the three of W₂ GELU(W₁ mean(h + w + c) + b₁) + b₂, channel by channel

The channels are cut into g segments of S = C / g. P_h maps the S channels of all patches of one column to themselves,
rows·S numbers at once, with the same weights for all columns and segments; P_w does so along the rows. The paper has as
many segments as rows and columns, so that P_h and P_w are C × C as W_c is; here g is free, as not every grid divides
the width. There are no heads and there is no attention map, so that `num_heads` and `attn_drop` change nothing.

Prefix tokens lie on no grid and become 0, so that in a block they stay as they are: the three weights are all that
could tell them of the patches, too little to classify by, and ViP itself classifies by the mean of the patches. A
hidden patch is zero to P_h and P_w, and not in the mean. Under another grid P_h is resampled along the height and P_w
along the width.

Cost: O(N·D·(rows + columns)·S) besides two projections.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength, Layout, resample_tokens
from fvit.attention.ops import divide
from fvit.attention.registry import register


@register("permute_mlp")
class PermuteMlp(FixedLength):
    """Vision Permutator's layer. Arguments as for `Mechanism`, and:

    Args:
        segments: the number g of segments, a divisor of `dim`; None for 16, as in the paper's ViP-Small/14, or for
            what 16 and `dim` have in common.

    Raises:
        ValueError: `segments` does not divide `dim`; the tokens do not fill the grid; a mask between pairs of tokens,
            or causality, is asked for.
    """

    needs_grid = True
    reaches_prefix = False

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        segments: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias=proj_bias, **host)
        self.refuse_host_options(**host)
        segments = math.gcd(dim, 16) if segments is None else segments
        if segments < 1 or dim % segments:
            divisors = [n for n in range(1, dim + 1) if dim % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - segments))[:3])
            raise ValueError(
                f"permute_mlp: width {dim} does not divide into {segments} segments; "
                f"take segments={' or '.join(map(str, near))}"
            )
        factory = dict(device=device, dtype=dtype)
        self.segments = segments
        self.segment_dim = dim // segments
        self.mlp_h = nn.Linear(self.segment_dim, self.segment_dim, bias=qkv_bias, **factory)
        self.mlp_w = nn.Linear(self.segment_dim, self.segment_dim, bias=qkv_bias, **factory)
        self.mlp_c = nn.Linear(dim, dim, bias=qkv_bias, **factory)
        hidden = max(dim // 4, 1)
        self.reweight = nn.Sequential(
            nn.Linear(dim, hidden, **factory), nn.GELU(), nn.Linear(hidden, 3 * dim, **factory)
        )
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **factory)
        self.proj_drop = nn.Dropout(proj_drop)
        self.token_axes: Mapping[str, tuple[int, ...]] = {
            f"{name}.{kind}": axes
            for name in ("mlp_h", "mlp_w")
            for kind, axes in (("weight", (0, 1)), ("bias", (0,)))
            if kind == "weight" or qkv_bias
        }

    def part(self, name: str, layout: Layout) -> Layout:
        """The rows or the columns, as a grid of one row."""
        return Layout(1, layout.rows if name.startswith("mlp_h") else layout.columns, 0)

    def shape(self, name: str, layout: Layout) -> tuple[int, ...]:
        """[n·S, n·S] of a weight and [n·S] of a bias, for n rows or columns."""
        size = self.part(name, layout).tokens * self.segment_dim
        return (size,) * len(self.token_axes[name])

    def resample(self, name: str, tensor: Tensor, old: Layout, new: Layout) -> Tensor:
        """A weight or a bias for another number of rows or columns, channel by channel of a segment."""
        old, new = self.part(name, old), self.part(name, new)
        for axis in self.token_axes[name]:
            tensor = tensor.unflatten(axis, (old.tokens, self.segment_dim))
            # A layer sums over what it reads: there the sum is kept.
            tensor = resample_tokens(tensor, axis, old, new, keep_sum=axis == 1).flatten(axis, axis + 1)
        return tensor

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        self.check_length(x)
        bias = self.key_bias(attn_mask, x)
        # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
        presence = x.new_ones(1, x.shape[1], 1) if bias is None else bias.exp().transpose(1, 2)
        presence, x = (self.to_grid(t).permute(0, 2, 3, 1) for t in (presence, x * presence))
        h = self._mix(self.mlp_h, x.transpose(1, 2)).transpose(1, 2)
        w = self._mix(self.mlp_w, x)
        c = self.mlp_c(x)
        mean_bc = divide(((h + w + c) * presence).sum(dim=(1, 2)), presence.sum(dim=(1, 2)))
        weights = self.reweight(mean_bc).unflatten(-1, (self.dim, 3)).softmax(dim=-1)[:, None, None]
        mixed = h * weights[..., 0] + w * weights[..., 1] + c * weights[..., 2]
        return self.proj_drop(self.from_grid(self.proj(mixed).permute(0, 3, 1, 2)))

    def _mix(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """`linear` along the third axis of [B, m, n, C], segment by segment."""
        segments = x.unflatten(-1, (self.segments, self.segment_dim)).transpose(2, 3)
        return linear(segments.flatten(3)).unflatten(-1, (x.shape[2], -1)).transpose(2, 3).flatten(3)
