"""No mixing at all: the control that shows what mixing contributes.

Source: Yu et al., "MetaFormer Baselines for Vision", arXiv:2210.13452, section 3.1 (IdentityFormer).

    out = x

Cost: none.

Family: control.

Code: sail-sg/metaformer (Apache-2.0).
"""

import torch
from torch import Tensor

from fvit.attention.base import Mechanism
from fvit.attention.registry import register


@register("identity")
class IdentityMixer(Mechanism):
    """Returns its tokens. It has no parameters, and honours every mask and causality, since no token sees another."""

    reaches_prefix = False
    takes_pair_mask = True

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return x

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """The ``map``, in which each token attends to itself only."""
        return {"map": torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(x.shape[0], 1, -1, -1)}
