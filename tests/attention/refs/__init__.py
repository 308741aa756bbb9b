"""Slow references in float64, one file a mechanism, written from the formulas: image by image, head by head.

Each has `reference(module, x, keep=None)`: x [B, N, C] to [B, N, C], where keep [B, N] says which tokens take part.
They read the weights off the module and share no code with it; what is below is all that they share with each other.
"""

from torch import Tensor, nn


def affine(layer: nn.Linear, x: Tensor) -> Tensor:
    """W x + b for each row of x."""
    out = x @ layer.weight.T
    return out if layer.bias is None else out + layer.bias


def heads_of(rows: Tensor, num_heads: int) -> list[Tensor]:
    """[N, C] as a list of H matrices [N, d]."""
    width = rows.shape[1] // num_heads
    return [rows[:, h * width : (h + 1) * width] for h in range(num_heads)]


def kept(tokens: int, keep: Tensor | None, image: int) -> list[int]:
    """Indices of the tokens of one image that take part."""
    return [n for n in range(tokens) if keep is None or keep[image, n]]
