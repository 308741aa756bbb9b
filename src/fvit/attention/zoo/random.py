"""Random mixing: one frozen random matrix between the tokens, the control that shows what learning to mix is worth.

Source: Yu et al., "MetaFormer Baselines for Vision", arXiv:2210.13452, section 3.1 (RandFormer).

    out = softmax(R) x,      R [N, N] uniform on [0, 1), never trained; the softmax runs over the tokens that are mixed

Cost: O(N²·D), no projections. R is drawn once a block, is saved with the weights, and is resampled where the size of
the images changes, so that it stays the matrix which the rest of the model has learned to live with. There are no heads
and there is no projection, so that `num_heads` and `qkv_bias` change nothing.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.registry import register


@register("random")
class Random(FixedLength):
    """RandFormer's mixing. Arguments as for `Mechanism`; `attn_drop` falls on softmax(R).

    Raises:
        ValueError: the tokens are not those of the layout; a mask between pairs of tokens, or causality, is asked for.
    """

    token_axes: ClassVar = {"logits": (0, 1)}

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
        self.register_buffer("logits", torch.empty(1, 1, device=device, dtype=dtype))
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)

    def init_weights(self) -> None:
        """Draw R."""
        nn.init.uniform_(self.logits)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        return self.proj_drop(self.attn_drop(self._map(x, attn_mask)) @ x)

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """As `Mechanism.weights`: the ``map``, of one head."""
        self.refuse_causal(is_causal)
        return {"map": self._map(x, attn_mask).expand(x.shape[0], -1, -1).unsqueeze(1)}

    def _map(self, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        """softmax(R), [N, N] or, under a mask, [B, N, N]."""
        self.check_length(x)
        bias = self.key_bias(attn_mask, x)
        return (self.logits if bias is None else self.logits + bias).softmax(dim=-1)
