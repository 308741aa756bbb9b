"""Focused linear attention: a power sharpens the features of a ReLU kernel and keeps their length.

Source: Han et al., "FLatten Transformer: Vision Transformer using Focused Linear Attention",
arXiv:2308.00442.

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / (φ(q_n) Σ_m φ(k_m)) [+ DWC(v)_n]
    φ(x) = f(ReLU(x)),      f(x) = ‖x‖ / ‖x^p‖ · x^p  (the power element by element)

Cost: O(N·D·d) besides the four projections; DWC adds O(N·D·w²). As the paper writes it, the lengths are those of one
head's features; the published code takes them over all heads at once, and adds to the formula a learned position for
each key and a learned scale for each channel, which are left out here. DWC is that code's: one depth-wise w×w kernel
with a bias for the d channels of a head, shared by all heads, on the patches alone; a hidden patch is zero to it, as
the border is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import convolve_patches, divide, kernel_average, unit
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("focused")
class Focused(Projected):
    """Focused linear attention. Arguments as for `Projected`, `attn_drop` falls on φ(k), and:

    Args:
        focusing_factor: the power p, at least 1.
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. It needs the grid of the patches.

    Raises:
        ValueError: an option is out of its range; tokens do not fill the grid that the convolution needs; a mask
            between pairs of tokens, or causality, is asked for.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        if focusing_factor < 1:
            raise ValueError(f"focused: focusing_factor={focusing_factor} would blur; take one of at least 1")
        if conv < 0 or (conv and conv % 2 == 0):
            raise ValueError(f"focused: conv={conv} has no centre; take an odd width, or 0 for none")
        factory = dict(device=device, dtype=dtype)
        d = self.head_dim
        self.conv = nn.Conv2d(d, d, conv, padding=conv // 2, groups=d, **factory) if conv else None
        self.needs_grid = conv > 0
        self.focusing_factor = focusing_factor

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q, k, v = self.heads(x)
        q, k = self._focus(F.relu(q)), self._focus(F.relu(k))
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
            presence = bias.to(k.dtype).exp().unsqueeze(-1)
            k = k * presence
        out = kernel_average(q, self.attn_drop(k), v)
        if self.conv is not None:
            # One kernel for all heads: they are convolved as images of their own.
            v = v if bias is None else v * presence
            convolved = convolve_patches(self.conv, v.flatten(0, 1), self.grid_size, self.num_prefix_tokens)
            out = out + convolved.unflatten(0, v.shape[:2])
        return self.proj_drop(self.proj(self.merge_heads(out)))

    def _focus(self, x: Tensor) -> Tensor:
        """‖x‖ x^p / ‖x^p‖ along the last dimension, for x ≥ 0; zero stays zero."""
        # Whatever x is divided by cancels, in the value and in the gradient; its largest element keeps x^p in range.
        power = divide(x, x.detach().amax(dim=-1, keepdim=True)) ** self.focusing_factor
        return unit(power, dim=-1) * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
