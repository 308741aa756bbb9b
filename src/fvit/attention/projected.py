"""`Projected`: mechanisms between a joint projection to q, k, v and an output projection."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import convolve_heads, convolve_patches, depthwise


class Projected(Mechanism):
    """Base class of the mechanisms that replace softmax attention between `qkv` and `proj`.

    A subclass implements `mix`, or, if it needs more than q, k, v and a mask over keys, `forward` in terms of `heads`,
    `add_conv` and `output`. Both projections have timm's names, so softmax checkpoints load into them.

    DWC(v), which many papers add to their mechanism, is an option of all: a depth-wise convolution with bias of the
    patches' values, 0 for prefix tokens. A hidden patch is zero to it, like the border. It refuses masks between pairs
    and causality.

    Args:
        dim: width D.
        num_heads: number of heads H, d = D / H.
        qkv_bias: biases of the joint projection.
        attn_drop: dropout rate of what weights the tokens; each mechanism says what that is.
        proj_drop: dropout rate of the output.
        proj_bias: bias of the output projection.
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. Needs the grid.
        device: device of the parameters.
        dtype: dtype of the parameters.
        host: as for `Mechanism`.

    Raises:
        ValueError: `conv` is even or negative, or `forward` does not add it.
    """

    adds_conv: ClassVar[bool] = False
    """Whether a subclass's own `forward` calls `add_conv`."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        conv: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, device, dtype, proj_bias=proj_bias, **host)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **self.factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **self.factory)
        self.conv = depthwise(f"{type(self).__name__}: conv", dim, conv, **self.factory)
        if conv:
            if type(self).forward is not Projected.forward and not self.adds_conv:
                raise ValueError(f"the forward of {type(self).__name__} adds no convolution of its values; use conv=0")
            self.needs_grid, self.takes_pair_mask = True, False

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        q, k, v = self.heads(x)
        out = self.mix(q, k, v, self.key_bias(attn_mask, x))
        return self.output(self.add_conv(out, v, attn_mask))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """The mechanism itself: q, k, v [B, H, N, d] to [B, H, N, d].

        `bias` [B or 1, 1, N] is a mask over keys, or None: added to logits, or multiplied to a kernel as exp(bias).
        """
        raise NotImplementedError(f"{type(self).__name__} must implement mix or forward")

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens [B, N, C], each [B, H, N, d]."""
        q, k, v = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        return q, k, v

    def add_conv(self, out: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool = False) -> Tensor:
        """out + DWC(v) for out, v [B, H, N, d], or out itself without a convolution."""
        if self.conv is None:
            return out
        if is_causal or not (attn_mask is None or (attn_mask.ndim == 4 and attn_mask.shape[1:3] == (1, 1))):
            raise ValueError(
                f"the convolution of values in {type(self).__name__} cannot be causal and only supports a mask over "
                "keys, of shape [B, 1, 1, N]; use conv=0"
            )
        factor_bn1 = self.mask_factor(attn_mask, v.transpose(1, 2).flatten(2))
        if factor_bn1 is not None:
            v = v * factor_bn1.unsqueeze(1)
        return out + self.convolve(v)

    def convolve(self, v: Tensor) -> Tensor:
        """DWC(v) of all values [B, H, N, d]."""
        if self.conv.in_channels < self.dim:  # one kernel for all heads
            return convolve_heads(self.conv, v, self.grid_size, self.num_prefix_tokens)
        convolved = convolve_patches(self.conv, self.merge_heads(v), self.grid_size, self.num_prefix_tokens)
        return self.split_heads(convolved)

    def output(self, out_bhnd: Tensor) -> Tensor:
        """The output projection, [B, H, N, d] -> [B, N, C]."""
        return self.proj_drop(self.proj(self.merge_heads(out_bhnd)))
