"""Fourier mixing: a fixed transform in place of attention, without parameters.

Source: Lee-Thorp et al., "FNet: Mixing Tokens with Fourier Transforms", arXiv:2105.03824.

    out = Re FFT_N FFT_D x

Cost: O(N·D·(log N + log D)), no projections. The transforms run along the one sequence of tokens, prefix tokens
included, and along the channels, unnormalised as in the paper: the output is about √(N·D) times as large as the input.
There are no heads and there is no attention map, so that `num_heads` and `attn_drop` change nothing.
"""

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.registry import register


@register("fnet")
class FNet(Mechanism):
    """FNet's mixing. Arguments as for `Mechanism`; half precision is transformed in float32.

    Raises:
        ValueError: a mask or causality is asked for: the transform is over all tokens or another one.
    """

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
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]."""
        self.refuse_causal(is_causal)
        if attn_mask is not None:
            raise ValueError("FNet transforms all tokens together and can hide none; use attention=softmax for a mask")
        mixed = torch.fft.fft2(x.to(torch.promote_types(x.dtype, torch.float32))).real
        return self.proj_drop(mixed.to(x.dtype))
