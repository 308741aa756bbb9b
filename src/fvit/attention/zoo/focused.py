"""Focused linear attention: ReLU features sharpened by a power that preserves their length.

Source: Han et al., "FLatten Transformer: Vision Transformer using Focused Linear Attention", arXiv:2308.00442.

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / (φ(q_n) Σ_m φ(k_m)) [+ DWC(v)_n]
    φ(x) = f(ReLU(x [+ position]) [/ s]),      f(x) = ‖x‖ / ‖x^p‖ · x^p  (element-wise power)

In the paper the norms are those of one head's features. The authors' code differs, and each difference is an option: it
takes the norms over all heads together, divides the features channel-wise by a learned s = softplus(s̃), and adds a
learned position to each key. DWC is a depth-wise w×w convolution with
bias on the d channels of a head, shared by all heads, over the patches only; a hidden patch is zero to it, like the
border.

Released code: adds an epsilon to each feature.

Cost: O(N·D·d) besides the four projections; DWC adds O(N·D·w²).

Value convolution: DeiT-T 71.8 to 74.1 % (arXiv:2308.00442, table 4).

Family: linear.

Code: LeapLabTHU/FLatten-Transformer.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import depthwise, divide, kernel_average, unit
from fvit.attention.positions import PositionEmbedding
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("focused")
class FocusedLinearAttention(Projected):
    """Focused linear attention. Other arguments as for `Projected`; `attn_drop` applies to φ(k).

    Args:
        focusing_factor: the power p, at least 1.
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. Needs the grid.
        norm: norms over the features of a ``head`` (the paper) or of a whole ``token`` (the authors' code).
        scale_channels: divide the features by a learned scale per channel.
        position_keys: add a learned position to each key; needs a fixed length.
    """

    adds_conv = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        focusing_factor: float = 3.0,
        conv: int = 0,
        norm: Literal["head", "token"] = "head",
        scale_channels: bool = False,
        position_keys: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, **shared)
        if focusing_factor < 1:
            raise ValueError(f"focused: focusing_factor={focusing_factor} must be at least 1")
        if norm not in ("head", "token"):
            raise ValueError(f"focused: norm={norm!r} must be one of head, token")
        self.conv = depthwise("focused: conv", self.head_dim, conv, **self.factory)
        self.channel_scale = nn.Parameter(torch.empty(dim, **self.factory)) if scale_channels else None
        self.positions = PositionEmbedding(dim, **self.factory) if position_keys else None
        self.needs_grid, self.fixed_length = conv > 0, position_keys
        self.focusing_factor, self.norm = focusing_factor, norm
        self.init_weights()

    def init_weights(self) -> None:
        if self.channel_scale is not None:
            nn.init.zeros_(self.channel_scale)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        if self.positions is not None:
            k_bnc = self.positions(k_bnc)
        q, k, v = self._features(q_bnc), self._features(k_bnc), self.split_heads(v_bnc)
        factor_bn1 = self.mask_factor(attn_mask, x)
        if factor_bn1 is not None:
            k = k * factor_bn1.unsqueeze(1)
        out = kernel_average(q, self.attn_drop(k), v)
        return self.output(self.add_conv(out, v, attn_mask))

    def _features(self, x_bnc: Tensor) -> Tensor:
        """φ of queries, or of keys with their positions, [B, N, C] -> [B, H, N, d], in float32 at least.

        If all features of a head are tiny, the quotient has gradients too large for bfloat16.
        """
        x_bnc = F.relu(x_bnc).to(torch.promote_types(x_bnc.dtype, torch.float32))
        if self.channel_scale is not None:
            x_bnc = x_bnc / F.softplus(self.channel_scale)
        if self.norm == "token":
            return self.split_heads(self._focus(x_bnc))
        return self._focus(self.split_heads(x_bnc))

    def _focus(self, x: Tensor) -> Tensor:
        """‖x‖ x^p / ‖x^p‖ along the last dimension, for x ≥ 0; 0 for x = 0."""
        # A constant factor of x cancels, in value and gradient; dividing by the largest element keeps x^p in range.
        power = divide(x, x.detach().amax(dim=-1, keepdim=True)) ** self.focusing_factor
        return unit(power, dim=-1) * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
