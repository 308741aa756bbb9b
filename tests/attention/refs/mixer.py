"""MLP-Mixer, arXiv:2105.01601, equation 1, first half, channel by channel."""

import math

import torch
from torch import Tensor, nn

from . import kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """W₂ GELU(W₁ x_c + b₁) + b₂ for each channel c, with the columns of absent tokens left out of W₁."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        channels = []
        for column in x[b].T:
            before = sum(module.fc1.weight[:, n] * column[n] for n in there) + module.fc1.bias
            hidden = before * (1 + torch.erf(before / math.sqrt(2))) / 2
            channels.append(sum(module.fc2.weight[:, s] * hidden[s] for s in range(len(hidden))) + module.fc2.bias)
        images.append(torch.stack(channels, dim=1))
    return torch.stack(images)
