"""Focused linear attention: a power sharpens the features of a ReLU kernel and keeps their length.

Source: Han et al., "FLatten Transformer: Vision Transformer using Focused Linear Attention",
arXiv:2308.00442.

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / (φ(q_n) Σ_m φ(k_m)) [+ DWC(v)_n]
    φ(x) = f(ReLU(x [+ position]) [/ s]),      f(x) = ‖x‖ / ‖x^p‖ · x^p  (the power element by element)

As the paper writes it, the lengths are those of one head's features. The published code differs, and each difference
is an option: it takes the lengths over all heads at once, divides the features channel by channel by a learned
s = softplus(s̃), and adds a learned position to each key. The epsilon that it adds to each feature is left out. DWC is
one depth-wise w×w kernel with a bias for the d channels of a head, shared by all heads, on the patches alone; a hidden
patch is zero to it, as the border is.

Cost: O(N·D·d) besides the four projections; DWC adds O(N·D·w²).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import convolve_heads, depthwise, divide, kernel_average, unit
from fvit.attention.positions import Positions
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("focused")
class Focused(Projected):
    """Focused linear attention. Arguments as for `Projected`, `attn_drop` falls on φ(k), and:

    Args:
        focusing_factor: the power p, at least 1.
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. It needs the grid of the patches.
        norm: lengths are those of a ``head`` (the paper) or of a whole ``token`` (the published code).
        scale_channels: divide the features by a learned scale of each channel.
        position_keys: add a learned position to each key, which needs a fixed length.

    Raises:
        ValueError: an option is out of its range; tokens do not fill the grid that the convolution needs, or are not
            as many as the positions; a mask between pairs of tokens, or causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        focusing_factor: float = 3.0,
        conv: int = 0,
        norm: Literal["head", "token"] = "head",
        scale_channels: bool = False,
        position_keys: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        if focusing_factor < 1:
            raise ValueError(f"focused: focusing_factor={focusing_factor} would blur; take one of at least 1")
        if norm not in ("head", "token"):
            raise ValueError(f"focused: norm={norm!r} is none of head, token")
        factory = dict(device=device, dtype=dtype)
        self.conv = depthwise("focused: conv", self.head_dim, conv, **factory)
        self.channel_scale = nn.Parameter(torch.empty(dim, **factory)) if scale_channels else None
        self.positions = Positions(dim, **factory) if position_keys else None
        self.needs_grid, self.fixed_length = conv > 0, position_keys
        self.focusing_factor, self.norm = focusing_factor, norm
        self.init_weights()

    def init_weights(self) -> None:
        """Start from s̃ = 0, as the authors do."""
        if self.channel_scale is not None:
            nn.init.zeros_(self.channel_scale)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        if self.positions is not None:
            k_bnc = self.positions(k_bnc)
        q, k, v = self._features(q_bnc), self._features(k_bnc), self.split_heads(v_bnc)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
            presence = bias.exp().unsqueeze(-1)
            k = k * presence
        out = kernel_average(q, self.attn_drop(k), v.to(k.dtype)).to(v.dtype)
        if self.conv is not None:
            v = v if bias is None else v * presence
            out = out + convolve_heads(self.conv, v, self.grid_size, self.num_prefix_tokens)
        return self.output(out)

    def _features(self, x_bnc: Tensor) -> Tensor:
        """φ of queries, or of keys with their positions, [B, N, C] -> [B, H, N, d], in float32 at least.

        A head may be left with tiny features, whose quotient has large gradients: bfloat16 would get those wrong.
        """
        x_bnc = F.relu(x_bnc).to(torch.promote_types(x_bnc.dtype, torch.float32))
        if self.channel_scale is not None:
            x_bnc = x_bnc / F.softplus(self.channel_scale)
        if self.norm == "token":
            return self.split_heads(self._focus(x_bnc))
        return self._focus(self.split_heads(x_bnc))

    def _focus(self, x: Tensor) -> Tensor:
        """‖x‖ x^p / ‖x^p‖ along the last dimension, for x ≥ 0; zero stays zero."""
        # Whatever x is divided by cancels, in the value and in the gradient; its largest element keeps x^p in range.
        power = divide(x, x.detach().amax(dim=-1, keepdim=True)) ** self.focusing_factor
        return unit(power, dim=-1) * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
