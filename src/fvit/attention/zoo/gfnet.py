"""GFNet's global filter: the image of each channel times learned weights in the frequency domain.

Source: Rao et al., "Global Filter Networks for Image Classification", arXiv:2107.00645.

    out = FFT2⁻¹(K ⊙ FFT2(x))

This is a circular convolution with a kernel as large as the grid, one for each channel, without projections. As in the
published code the transforms are those of real numbers, orthonormal, and K holds the non-negative frequencies of the
columns alone: rows × (⌊columns / 2⌋ + 1) complex numbers a channel. There are no heads and there is no attention map,
so that `num_heads` and `attn_drop` change nothing.

Prefix tokens lie on no grid and become 0, so that in a block they stay as they are: GFNet itself classifies by the mean
of the patches. A hidden patch is zero to the convolution. Under another grid K is interpolated bicubically, corner to
corner, as the published code does for images of another size.

Cost: O(N·D·log N).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength, Layout
from fvit.attention.registry import register


@register("gfnet")
class GFNet(FixedLength):
    """GFNet's global filter. Arguments as for `Mechanism`; half precision is transformed in float32.

    Raises:
        ValueError: the tokens do not fill the grid; a mask between pairs of tokens, or causality, is asked for.
    """

    needs_grid = True
    reaches_prefix = False
    token_axes: ClassVar = {"filter": (0, 1)}

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, **host)
        self.refuse_host_options(**host)
        # Real and imaginary parts: optimizers, and types shorter than float32, know no complex numbers.
        self.filter = nn.Parameter(torch.empty(1, 1, dim, 2, device=device, dtype=dtype))
        self.proj_drop = nn.Dropout(proj_drop)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw both parts of K from N(0, 0.02²), as the authors do."""
        nn.init.normal_(self.filter, std=0.02)

    def shape(self, name: str, layout: Layout) -> tuple[int, ...]:
        """[rows, columns / 2 + 1, C, 2]."""
        return layout.rows, layout.columns // 2 + 1, self.dim, 2

    def resample(self, name: str, tensor: Tensor, old: Layout, new: Layout) -> Tensor:
        """The filter for another grid."""
        maps = tensor.flatten(2).permute(2, 0, 1).unsqueeze(0).to(torch.promote_types(tensor.dtype, torch.float32))
        maps = F.interpolate(maps, size=self.shape(name, new)[:2], mode="bicubic", align_corners=True)
        return maps.squeeze(0).permute(1, 2, 0).unflatten(2, (self.dim, 2)).to(tensor.dtype).contiguous()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        self.check_length(x)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
            x = x * bias.exp().transpose(1, 2)
        dtype = torch.promote_types(x.dtype, torch.float32)
        kernel = torch.view_as_complex(self.filter.to(dtype)).permute(2, 0, 1)
        frequencies = torch.fft.rfft2(self.to_grid(x).to(dtype), norm="ortho") * kernel
        patches = torch.fft.irfft2(frequencies, s=self.grid_size, norm="ortho")
        return self.proj_drop(self.from_grid(patches.to(x.dtype)))
