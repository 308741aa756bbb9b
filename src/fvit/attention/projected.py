"""`Projected`: mechanisms between a joint projection to q, k, v and an output projection."""

from typing import Any

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism


class Projected(Mechanism):
    """Base class of the mechanisms that replace softmax attention between `qkv` and `proj`.

    A subclass implements `mix`, or, if it needs more than q, k, v and a mask over keys, `forward` in terms of `heads`
    and `output`. Both projections have timm's names, so softmax checkpoints load into them.

    Args:
        dim: width D.
        num_heads: number of heads H, d = D / H.
        qkv_bias: biases of the joint projection.
        attn_drop: dropout rate of what weights the tokens; each mechanism says what that is.
        proj_drop: dropout rate of the output.
        proj_bias: bias of the output projection.
        device: device of the parameters.
        dtype: dtype of the parameters.
        host: as for `Mechanism`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, device, dtype, proj_bias=proj_bias, **host)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **self.factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **self.factory)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        return self.output(self.mix(*self.heads(x), self.key_bias(attn_mask, x)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """The mechanism itself: q, k, v [B, H, N, d] to [B, H, N, d].

        `bias` [B or 1, 1, N] is a mask over keys, or None: added to logits, or multiplied to a kernel as exp(bias).
        """
        raise NotImplementedError(f"{type(self).__name__} must implement mix or forward")

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens [B, N, C], each [B, H, N, d]."""
        q, k, v = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        return q, k, v

    def output(self, out_bhnd: Tensor) -> Tensor:
        """The output projection, [B, H, N, d] -> [B, N, C]."""
        return self.proj_drop(self.proj(self.merge_heads(out_bhnd)))
