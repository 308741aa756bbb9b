"""Random mixing: a frozen random matrix between the tokens, the control that shows what learning to mix contributes.

Source: Yu et al., "MetaFormer Baselines for Vision", arXiv:2210.13452, section 3.1 (RandFormer).

    out = softmax(R) x,      R [N, N] uniform on [0, 1), never trained; the softmax is over the mixed tokens

Cost: O(N²·D), no projections. R is drawn once per block and saved with the weights. It is resampled when the image size
changes, so it remains the matrix that the other weights were trained with. There are no heads and no projections, so
`num_heads` and `qkv_bias` have no effect.

Family: control.

Code: sail-sg/metaformer (Apache-2.0).
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.registry import register


@register("random")
class RandomMixer(FixedLength):
    """RandFormer's mixing. Arguments as for `Mechanism`; `attn_drop` applies to softmax(R)."""

    token_axes: ClassVar = {"logits": (0, 1)}

    def __init__(self, dim: int, num_heads: int = 8, **shared: Any) -> None:
        super().__init__(dim, num_heads, **shared)
        self.register_buffer("logits", torch.empty(1, 1, **self.factory))

    def init_weights(self) -> None:
        nn.init.uniform_(self.logits)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        return self.proj_drop(self.attn_drop(self._map(x, attn_mask)) @ x)

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """The ``map``, with one head."""
        self.refuse_causal(is_causal)
        return {"map": self._map(x, attn_mask).expand(x.shape[0], -1, -1).unsqueeze(1)}

    def _map(self, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        """softmax(R), [N, N], or [B or 1, N, N] under a mask."""
        self.check_length(x)
        bias = self.key_bias(attn_mask, x)
        return (self.logits if bias is None else self.logits + bias).softmax(dim=-1)
