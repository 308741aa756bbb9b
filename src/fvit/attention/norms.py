"""Norms that keep the dtype of their input under autocast, which makes all norms return float32.

The kernels compute in float32 whatever the dtype. What follows a norm inside a mechanism is rounded to 16 bits anyway,
so a float32 result would cost a cast and twice the memory.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import without_autocast


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm, in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device):
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm, in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device):
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
