"""A learned vector for each token, which a mechanism adds to its keys or to whatever else has no place by itself."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength


class Positions(FixedLength):
    """Adds a vector to each token; sized, resampled and loaded as the weights of `FixedLength` are.

    It is part of a mechanism, which passes on its layout and has its need of a fixed length.

    Args:
        dim: width C of the tokens.
        device: where the parameters are made.
        dtype: their type.
    """

    token_axes: ClassVar = {"table": (0,)}

    def __init__(self, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(dim, num_heads=1)
        self.table = nn.Parameter(torch.empty(1, dim, device=device, dtype=dtype))

    def init_weights(self) -> None:
        """Start from 0."""
        nn.init.zeros_(self.table)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, C], each with its vector added.

        Raises:
            ValueError: N is not the number of tokens that `set_layout` told of.
        """
        self.check_length(x)
        return x + self.table
