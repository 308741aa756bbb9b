"""Circulant attention: an attention map that depends on the distance of two patches only, through Fourier transforms.

Source: Han et al., "Vision Transformers are Circulant Attention Learners", arXiv:2512.21542.

    out = W_o (F⁻¹(F(a)* F(v)) [⊙ SiLU(W_g x + b_g)]),      a = softmax_N(F⁻¹(F(q)* F(k)) / √N)

that is, with cyclic shifts m of the grid, out_n = Σ_m a_m v_n+m, a = softmax_m(Σ_n q_n k_n+m / √N). Each channel is a
head, as in the authors' models, so `num_heads` has no effect. They transform x before it is projected, which takes
fewer transforms and leaves no bias; here the projections come first. The gate is theirs.

N is the number of patches. Prefix tokens become the bias of W_o: their models classify by the mean of the patches. The
queries, keys and values of a hidden patch are zero.

Cost: O(N·D·log N) besides the four projections; the gate is a fifth.

Family: Fourier.

Code: LeapLabTHU/Circulant-Attention.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import cast_once
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("circulant")
class CirculantAttention(Projected):
    """Circulant attention. Other arguments as for `Projected`; `attn_drop` applies to a.

    Half precision is transformed in float32.

    Args:
        gate: multiply by SiLU of a projection of the input before the output projection.
    """

    needs_grid = True
    reaches_prefix = False
    adds_conv = True

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, *, gate: bool = False, **shared: Any
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **self.factory) if gate else None

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        factor_bn1, x = self.mask_factor(attn_mask, x), cast_once(x)
        qkv = self.qkv(x)
        visible = self.to_grid(qkv if factor_bn1 is None else qkv * factor_bn1)
        dtype = torch.promote_types(visible.dtype, torch.float32)
        q, k, v = torch.fft.rfft2(visible.to(dtype), norm="ortho").chunk(3, dim=1)
        logits = torch.fft.irfft2(q.conj() * k, s=self.grid_size, norm="ortho")
        attn = self.attn_drop(logits.flatten(2).softmax(dim=-1)).view_as(logits)
        patches = torch.fft.irfft2(torch.fft.rfft2(attn).conj() * v, s=self.grid_size, norm="ortho")
        out = self.split_heads(self.from_grid(patches.to(qkv.dtype)))
        out = self.merge_heads(self.add_conv(out, self.split_heads(qkv.chunk(3, dim=-1)[2]), attn_mask))
        if self.gate is not None:
            out = out * F.silu(self.gate(x))
        return self.proj_drop(self.proj(out))
