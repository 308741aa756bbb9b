"""Polarity-aware linear attention: queries and keys meet by equal signs and by opposite ones, sharpened by a power.

Source: Meng et al., "PolaFormer: Polarity-aware Linear Attention for Vision Transformers", arXiv:2501.15061.

    out = W_o (([same(q_n), opposite(q_n)] [+ DWC(v)_n]) ⊙ G_n)
    same(q_n) = Σ_m (q⁺_n·k⁺_m + q⁻_n·k⁻_m) vˢ_m / Σ_m (q⁺_n·k⁺_m + q⁻_n·k⁻_m)
    opposite(q_n) = Σ_m (q⁺_n·k⁻_m + q⁻_n·k⁺_m) vᵒ_m / Σ_m (q⁺_n·k⁻_m + q⁻_n·k⁺_m)
    x⁺ = ReLU(x [/ s])^p, x⁻ = ReLU(−x [/ s])^p, where a key k is [+ its position]
    p = 1 + α σ(w), one for each channel      G_n = W_g x_n + b_g

vˢ and vᵒ are the first and the second half of the channels of each head's values. A query that meets no key in one of
the two ways gets 0 there. DWC, added before G as in the published code, is one depth-wise w×w kernel with a bias for
the d channels of a head, shared by all heads, on the patches alone; a hidden patch is zero to it, as the border is.
That code also divides queries and keys channel by channel by a learned s = softplus(s̃), and adds a learned position to
each key.

Cost: O(N·D·d) besides five projections, one more than softmax attention; DWC adds O(N·D·w²).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import convolve_heads, depthwise, kernel_average
from fvit.attention.positions import Positions
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("pola")
class Pola(Projected):
    """PolaFormer's attention. Arguments as for `Projected`, `attn_drop` falls on the features of the keys, and:

    Args:
        alpha: the powers p lie between 1 and 1 + α, and start in the middle; positive.
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. It needs the grid of the patches.
        scale_channels: divide queries and keys by a learned scale of each channel.
        position_keys: add a learned position to each key, which needs a fixed length.

    Raises:
        ValueError: the width of the heads is odd; an option is out of its range; tokens do not fill the grid that the
            convolution needs, or are not as many as the positions; a mask between pairs of tokens, or causality, is
            asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        alpha: float = 4.0,
        conv: int = 0,
        scale_channels: bool = False,
        position_keys: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        d = self.head_dim
        if d % 2:
            raise ValueError(f"pola: heads of width {d} have no two halves; take a num_heads that leaves an even width")
        if alpha <= 0:
            raise ValueError(f"pola: alpha={alpha} leaves no power above 1; take a positive one")
        factory = dict(device=device, dtype=dtype)
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **factory)
        self.power = nn.Parameter(torch.empty(num_heads, 1, d, **factory))
        self.conv = depthwise("pola: conv", d, conv, **factory)
        self.channel_scale = nn.Parameter(torch.empty(dim, **factory)) if scale_channels else None
        self.positions = Positions(dim, **factory) if position_keys else None
        self.needs_grid, self.fixed_length = conv > 0, position_keys
        self.alpha = alpha
        self.init_weights()

    def init_weights(self) -> None:
        """Start from p = 1 + α/2 and s̃ = 0, as the authors do."""
        nn.init.zeros_(self.power)
        if self.channel_scale is not None:
            nn.init.zeros_(self.channel_scale)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        if self.positions is not None:
            k_bnc = self.positions(k_bnc)
        # Powers and their averages in float32 at least: bfloat16 would get their gradients wrong.
        dtype = torch.promote_types(x.dtype, torch.float32)
        q_bnc, k_bnc = q_bnc.to(dtype), k_bnc.to(dtype)
        if self.channel_scale is not None:
            scale = F.softplus(self.channel_scale.to(dtype))
            q_bnc, k_bnc = q_bnc / scale, k_bnc / scale
        q, k, v = (self.split_heads(t) for t in (q_bnc, k_bnc, v_bnc))
        bias = self.key_bias(attn_mask, x)
        # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
        presence = None if bias is None else bias.exp().unsqueeze(-1)
        q, k = self._features(q, k, presence)
        k = self.attn_drop(k)
        v_same, v_opposite = v.to(dtype).chunk(2, dim=-1)
        swapped_q = q.roll(self.head_dim, dims=-1)
        out = torch.cat([kernel_average(q, k, v_same), kernel_average(swapped_q, k, v_opposite)], dim=-1).to(v.dtype)
        if self.conv is not None:
            v = v if presence is None else v * presence
            out = out + convolve_heads(self.conv, v, self.grid_size, self.num_prefix_tokens)
        return self.proj_drop(self.proj(self.merge_heads(out) * self.gate(x)))

    def _features(self, q: Tensor, k: Tensor, presence: Tensor | None) -> tuple[Tensor, Tensor]:
        """[q⁺, q⁻] and [k⁺, k⁻], both [B, H, N, 2d], up to factors that cancel in every average.

        These are one for each query, and one for each channel by which keys are divided and queries multiplied. They
        keep the features of the keys below 1 and the largest one of each query at 1, whatever the power.
        """
        power = 1 + self.alpha * self.power.to(q.dtype).sigmoid()
        (log_q, no_q), (log_k, no_k) = _log_magnitude(q), _log_magnitude(k)
        if presence is not None:
            no_k = no_k | (presence == 0)
        # A channel in which no key has anything is none for the queries either.
        no_q = no_q | no_k.all(dim=-2, keepdim=True)
        top = log_k.detach().masked_fill(no_k, float("-inf")).amax(dim=-2, keepdim=True).nan_to_num(neginf=0)
        q_exponent = (power * (log_q + top)).masked_fill(no_q, float("-inf"))
        k_exponent = (power * (log_k - top)).masked_fill(no_k, float("-inf"))
        largest = q_exponent.detach().amax(dim=-1, keepdim=True).nan_to_num(neginf=0)
        q_features = _split_by_sign((q_exponent - largest).exp(), q)
        k_features = _split_by_sign(k_exponent.exp(), k)
        return q_features, k_features if presence is None else k_features * presence


def _log_magnitude(x: Tensor) -> tuple[Tensor, Tensor]:
    """ln |x| with a finite gradient, and where x is 0, or so small that 1/x is not finite; there it is 0."""
    nothing = x.abs() < torch.finfo(x.dtype).tiny
    return x.abs().masked_fill(nothing, 1).log(), nothing


def _split_by_sign(magnitude: Tensor, signed: Tensor) -> Tensor:
    """[the magnitudes of what is positive, those of what is negative], 0 elsewhere, along the last axis."""
    return torch.cat([magnitude.masked_fill(signed < 0, 0), magnitude.masked_fill(signed > 0, 0)], dim=-1)
