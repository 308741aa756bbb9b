"""PoLA, polarity-aware linear attention: same-sign and opposite-sign products of queries and keys, kept apart.

Source: Meng et al., "PolaFormer: Polarity-aware Linear Attention for Vision Transformers", arXiv:2501.15061.

    out = W_o (([same(q_n), opposite(q_n)] [+ DWC(v)_n]) ⊙ G_n)
    same(q_n) = Σ_m (q⁺_n·k⁺_m + q⁻_n·k⁻_m) vˢ_m / Σ_m (q⁺_n·k⁺_m + q⁻_n·k⁻_m)
    opposite(q_n) = Σ_m (q⁺_n·k⁻_m + q⁻_n·k⁺_m) vᵒ_m / Σ_m (q⁺_n·k⁻_m + q⁻_n·k⁺_m)
    x⁺ = ReLU(x [/ s])^p, x⁻ = ReLU(−x [/ s])^p, where a key k is [+ its position]
    p = 1 + α σ(w), one for each channel      G_n = W_g x_n + b_g

vˢ and vᵒ are the first and second half of the channels of each head's values. If a query has no overlap with any key in
one of the two sums, that half is 0. DWC, added before G as in the authors' code, is a depth-wise w×w convolution with
bias on the d channels of a head, shared by all heads, over the patches only; a hidden patch is zero to it, like the
border. That code also divides queries and keys channel-wise by a learned s = softplus(s̃), and adds a learned position
to each key.

Cost: O(N·D·d) besides five projections, one more than softmax attention; DWC adds O(N·D·w²).

Family: linear.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import cast_once, depthwise, kernel_average
from fvit.attention.positions import PositionEmbedding
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("pola")
class PoLA(Projected):
    """PolaFormer's attention. Other arguments as for `Projected`; `attn_drop` applies to the features of the keys.

    Args:
        alpha: the powers p lie between 1 and 1 + α, and start in the middle; positive.
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. Needs the grid.
        scale_channels: divide queries and keys by a learned scale per channel.
        position_keys: add a learned position to each key; needs a fixed length.

    Raises:
        ValueError: the width of the heads is odd; an option is out of range.
    """

    adds_conv = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        alpha: float = 4.0,
        conv: int = 0,
        scale_channels: bool = False,
        position_keys: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        d = self.head_dim
        if d % 2:
            raise ValueError(f"pola: the width of heads must be even, got {d}; use another num_heads")
        if alpha <= 0:
            raise ValueError(f"pola: alpha={alpha} must be positive")
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.power = nn.Parameter(torch.empty(num_heads, 1, d, **self.factory))
        self.conv = depthwise("pola: conv", d, conv, **self.factory)
        self.channel_scale = nn.Parameter(torch.empty(dim, **self.factory)) if scale_channels else None
        self.positions = PositionEmbedding(dim, **self.factory) if position_keys else None
        self.needs_grid, self.fixed_length = conv > 0, position_keys
        self.alpha = alpha
        self.init_weights()

    def init_weights(self) -> None:
        """Start with p = 1 + α/2 and s̃ = 0."""
        nn.init.zeros_(self.power)
        if self.channel_scale is not None:
            nn.init.zeros_(self.channel_scale)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        bias, dtype = self.key_bias(attn_mask, x), torch.promote_types(x.dtype, torch.float32)
        x = cast_once(x)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        if self.positions is not None:
            k_bnc = self.positions(k_bnc)
        # Powers and averages in float32 at least: their gradients would be wrong in bfloat16.
        q_bnc, k_bnc = q_bnc.to(dtype), k_bnc.to(dtype)
        if self.channel_scale is not None:
            scale = F.softplus(self.channel_scale.to(dtype))
            q_bnc, k_bnc = q_bnc / scale, k_bnc / scale
        q, k, v = (self.split_heads(t) for t in (q_bnc, k_bnc, v_bnc))
        presence = None if bias is None else bias.exp().unsqueeze(-1)
        q, k = self._features(q, k, presence)
        k = self.attn_drop(k)
        v_same, v_opposite = v.chunk(2, dim=-1)
        swapped_q = q.roll(self.head_dim, dims=-1)
        out = torch.cat([kernel_average(q, k, v_same), kernel_average(swapped_q, k, v_opposite)], dim=-1)
        out = self.merge_heads(self.add_conv(out, v, attn_mask))
        return self.proj_drop(self.proj(out * self.gate(x)))

    def _features(self, q: Tensor, k: Tensor, presence: Tensor | None) -> tuple[Tensor, Tensor]:
        """[q⁺, q⁻] and [k⁺, k⁻], both [B, H, N, 2d], up to factors that cancel in every average.

        A factor per query cancels, and so does one per channel by which keys are divided and queries multiplied. They
        keep the features of the keys below 1 and the largest of each query at 1 for any power.
        """
        power = 1 + self.alpha * self.power.to(q.dtype).sigmoid()
        (log_q, no_q), (log_k, no_k) = _log_magnitude(q), _log_magnitude(k)
        if presence is not None:
            no_k = no_k | (presence == 0)
        # A channel that is 0 in all keys does not count for the queries either.
        no_q = no_q | no_k.all(dim=-2, keepdim=True)
        top = log_k.detach().masked_fill(no_k, float("-inf")).amax(dim=-2, keepdim=True).nan_to_num(neginf=0)
        q_exponent = (power * (log_q + top)).masked_fill(no_q, float("-inf"))
        k_exponent = (power * (log_k - top)).masked_fill(no_k, float("-inf"))
        largest = q_exponent.detach().amax(dim=-1, keepdim=True).nan_to_num(neginf=0)
        q_features = _split_by_sign((q_exponent - largest).exp(), q)
        k_features = _split_by_sign(k_exponent.exp(), k)
        return q_features, k_features if presence is None else k_features * presence


def _log_magnitude(x: Tensor) -> tuple[Tensor, Tensor]:
    """ln |x| with a finite gradient, and where x is 0 or so small that 1/x overflows; there the logarithm is 0."""
    nothing = x.abs() < torch.finfo(x.dtype).tiny
    return x.abs().masked_fill(nothing, 1).log(), nothing


def _split_by_sign(magnitude: Tensor, signed: Tensor) -> Tensor:
    """[magnitudes where positive, magnitudes where negative], 0 elsewhere, concatenated along the last axis."""
    return torch.cat([magnitude.masked_fill(signed < 0, 0), magnitude.masked_fill(signed > 0, 0)], dim=-1)
