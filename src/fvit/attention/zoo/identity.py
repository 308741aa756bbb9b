"""No mixing at all: the control that shows what mixing is worth.

Source: Yu et al., "MetaFormer Baselines for Vision", arXiv:2210.13452, section 3.1 (IdentityFormer).

    out = x

Cost: none.
"""

import torch
from torch import Tensor

from fvit.attention.base import Mechanism
from fvit.attention.registry import register


@register("identity")
class Identity(Mechanism):
    """Returns its tokens. It has no parameters, and a mask over keys has nothing to hide."""

    reaches_prefix = False
    takes_pair_mask = True

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

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Return `x`: no token sees another, so every mask and causality hold."""
        return x

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """As `Mechanism.weights`: the ``map``, in which each token has itself alone."""
        return {"map": torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(x.shape[0], 1, -1, -1)}
