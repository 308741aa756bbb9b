"""GFNet's global filter: element-wise multiplication with learned weights in the frequency domain.

Source: Rao et al., "Global Filter Networks for Image Classification", arXiv:2107.00645.

    out = FFT2⁻¹(K ⊙ FFT2(x))

This is a circular depth-wise convolution with a kernel the size of the grid, without projections. As in the authors'
code the transforms are real and orthonormal, and K holds the non-negative column frequencies only: rows ×
(⌊columns / 2⌋ + 1) complex numbers per channel. There are no heads and no attention map, so `num_heads` and `attn_drop`
have no effect.

Prefix tokens become 0, so a residual block leaves them unchanged: GFNet classifies by the mean of the patches. A hidden
patch is zero to the convolution. For another grid K is interpolated bicubically with aligned corners, as in the
authors' code.

Cost: O(N·D·log N).

Family: Fourier.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength, TokenLayout
from fvit.attention.registry import register


@register("gfnet")
class GFNet(FixedLength):
    """GFNet's global filter. Arguments as for `Mechanism`; half precision is transformed in float32."""

    needs_grid = True
    reaches_prefix = False
    token_axes: ClassVar = {"filter": (0, 1)}

    def __init__(self, dim: int, num_heads: int = 8, **shared: Any) -> None:
        super().__init__(dim, num_heads, **shared)
        # Real and imaginary parts, since optimizers and short floats do not support complex numbers.
        self.filter = nn.Parameter(torch.empty(1, 1, dim, 2, **self.factory))
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.filter, std=0.02)

    def shape(self, name: str, layout: TokenLayout) -> tuple[int, ...]:
        return layout.rows, layout.columns // 2 + 1, self.dim, 2

    def resample(self, name: str, tensor: Tensor, old: TokenLayout, new: TokenLayout) -> Tensor:
        maps = tensor.flatten(2).permute(2, 0, 1).unsqueeze(0).to(torch.promote_types(tensor.dtype, torch.float32))
        maps = F.interpolate(maps, size=self.shape(name, new)[:2], mode="bicubic", align_corners=True)
        return maps.squeeze(0).permute(1, 2, 0).unflatten(2, (self.dim, 2)).to(tensor.dtype).contiguous()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        self.check_length(x)
        factor_bn1 = self.mask_factor(attn_mask, x)
        if factor_bn1 is not None:
            x = x * factor_bn1
        dtype = torch.promote_types(x.dtype, torch.float32)
        kernel = torch.view_as_complex(self.filter.to(dtype)).permute(2, 0, 1)
        frequencies = torch.fft.rfft2(self.to_grid(x).to(dtype), norm="ortho") * kernel
        patches = torch.fft.irfft2(frequencies, s=self.grid_size, norm="ortho")
        return self.proj_drop(self.from_grid(patches.to(x.dtype)))
