"""Fourier mixing (FNet): a fixed Fourier transform over tokens and channels, without parameters.

Source: Lee-Thorp et al., "FNet: Mixing Tokens with Fourier Transforms", arXiv:2105.03824.

    out = Re FFT_N FFT_D x

Cost: O(N·D·(log N + log D)), no projections. The transforms run along the token sequence, prefix tokens included, and
along the channels. They are unnormalised as in the paper, so the output is about √(N·D) times as large as the input.
There are no heads and no attention map, so `num_heads` and `attn_drop` have no effect.
"""

import torch
from torch import Tensor

from fvit.attention.base import Mechanism
from fvit.attention.registry import register


@register("fnet")
class FNet(Mechanism):
    """FNet's mixing. Arguments as for `Mechanism`; half precision is transformed in float32.

    Raises:
        ValueError: a mask or causality is requested: the transform always covers all tokens.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        if attn_mask is not None:
            raise ValueError("FNet transforms all tokens together and cannot hide one; use attention=softmax for masks")
        mixed = torch.fft.fft2(x.to(torch.promote_types(x.dtype, torch.float32))).real
        return self.proj_drop(mixed.to(x.dtype))
