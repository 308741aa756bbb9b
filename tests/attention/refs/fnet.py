"""FNet, arXiv:2105.03824, equation 3, with both discrete Fourier transforms as matrices of cosines and sines."""

import math

import torch
from torch import Tensor, nn


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """The real part of F_N x F_D: the product of the cosines minus that of the sines."""
    if keep is not None:
        raise ValueError("no token can be left out of a Fourier transform")
    cos_n, sin_n = _transform(x.shape[1])
    cos_d, sin_d = _transform(x.shape[2])
    return torch.stack([cos_n @ image @ cos_d - sin_n @ image @ sin_d for image in x])


def _transform(size: int) -> tuple[Tensor, Tensor]:
    angles = [[2 * math.pi * (row * column % size) / size for column in range(size)] for row in range(size)]
    angles = torch.tensor(angles, dtype=torch.float64)
    return angles.cos(), angles.sin()
