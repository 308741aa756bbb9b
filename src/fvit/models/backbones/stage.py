"""The blocks of one resolution."""

from collections.abc import Iterable

import torch
from timm.models import checkpoint_seq
from torch import Tensor, nn


class Stage(nn.Module):
    """Blocks in a row, behind what leads to their resolution.

    Args:
        downsample: maps the former stage's map to this one's.
        blocks: each maps a feature map to one of the same shape.
    """

    def __init__(self, downsample: nn.Module, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map the former stage's feature map to this one's."""
        x = self.downsample(x)
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)
