"""Slow references in float64, one file per mechanism, written from the formulas, image by image and head by head.

Each has `reference(module, x, keep=None)`: x [B, N, C] to [B, N, C], where keep [B, N] says which tokens take part.
They read the weights off the module and share no code with it; what is below is all that they share with each other.
"""

import torch
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


def convolved(module: nn.Module, conv: nn.Conv2d, tokens: Tensor, there: list[int]) -> Tensor:
    """A depth-wise convolution tap by tap, [N, C] to [N, C].

    A patch becomes the bias and the sum of its neighbours times the kernel's taps, where what is absent or outside is
    0; a prefix token becomes 0.
    """
    (rows, columns), prefix = module.grid_size, module.num_prefix_tokens
    kernel, reach = conv.weight[:, 0], conv.weight.shape[-1] // 2
    result = [torch.zeros_like(tokens[0])] * prefix
    for n in range(rows * columns):
        row, column = divmod(n, columns)
        total = torch.zeros_like(tokens[0]) if conv.bias is None else conv.bias
        for r in range(max(row - reach, 0), min(row + reach + 1, rows)):
            for c in range(max(column - reach, 0), min(column + reach + 1, columns)):
                if prefix + r * columns + c in there:
                    total = total + kernel[:, r - row + reach, c - column + reach] * tokens[prefix + r * columns + c]
        result.append(total)
    return torch.stack(result)


def elu_plus_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0)))


def turned_product(
    module: nn.Module, q: Tensor, i: int, k: Tensor, j: int, base: float = 10000, inclusive: bool = True
) -> Tensor:
    """q·k after both have been turned by their positions, as complex numbers."""
    # Of two turned complex numbers a e^(iα) and b e^(iβ) the product is the real part of a b̄ e^(i(α − β)).
    turn = _angles(module, i, len(q), base, inclusive) - _angles(module, j, len(k), base, inclusive)
    a, b = torch.complex(q[::2], q[1::2]), torch.complex(k[::2], k[1::2])
    return (a * b.conj() * torch.polar(torch.ones_like(turn), turn)).real.sum()


def _angles(module: nn.Module, token: int, width: int, base: float, inclusive: bool) -> Tensor:
    """The angle of each pair of channels: half of them by row, half by column, with decreasing speed."""
    pairs = width // 4
    place = divmod(token - module.num_prefix_tokens, module.grid_size[1])
    if token < module.num_prefix_tokens:
        place = (0, 0)
    steps = max(pairs - 1, 1) if inclusive else pairs
    angles = [where * base ** -(n / steps) for where in place for n in range(pairs)]
    return torch.tensor(angles, dtype=torch.float64)
