"""Where a mechanism looks that has no map of its own: how much each token moves what is read of its output."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_AT_ONCE = 16  # directions a backward pass


def sensitivity(mix: Callable[[Tensor], Tensor], x: Tensor, directions: int = 64) -> Tensor:
    """‖∂ mix(x) / ∂ x_n‖, the Frobenius norm of each token's Jacobian, [B, N].

    Exact where the output has no more than `directions` channels. Where it has more, it is estimated from the images
    of as many random signs, the same in every call: without bias in its square, and off by a few per cent.

    Args:
        mix: maps tokens [B, N, C] to what is read of them, [B, M], image by image: the first token of a mechanism's
            output, for one. It may hold no randomness: a module in evaluation.
        x: tokens [B, N, C].
        directions: M directions at most of the output are followed back.
    """
    rows = [_squares(mix, image, directions) for image in x.detach().split(1)]
    return torch.cat(rows).sqrt()


def _squares(mix: Callable[[Tensor], Tensor], image: Tensor, directions: int) -> Tensor:
    """‖J_n‖² of one image [1, N, C], as [1, N]."""
    with torch.no_grad():
        width = mix(image).shape[-1]
    chosen = _directions(width, directions).to(image)
    total = image.new_zeros(image.shape[:2])
    for some in chosen.split(_AT_ONCE):
        # Copies of the image, a direction each: one backward pass gives all of their products with the Jacobian.
        with torch.enable_grad():
            copies = image.repeat(len(some), 1, 1).requires_grad_()
            (products,) = torch.autograd.grad((mix(copies) * some).sum(), copies, materialize_grads=True)
        total += products.square().sum(dim=(0, 2))
    return total


def _directions(width: int, count: int) -> Tensor:
    """Vectors [n, width] whose outer products sum to the identity, on average if they are fewer than `width`."""
    if width <= count:
        return torch.eye(width)
    signs = torch.randint(0, 2, (count, width), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return signs / math.sqrt(count)
