"""Token saliency for mechanisms without attention weights: the sensitivity of the output to each token."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_AT_ONCE = 16  # directions per backward pass


def sensitivity(mix: Callable[[Tensor], Tensor], x: Tensor, directions: int = 64) -> Tensor:
    """‖∂ mix(x) / ∂ x_n‖, the Frobenius norm of each token's Jacobian, [B, N].

    Exact if the output has at most `directions` channels. If it has more, the norm is estimated from as many random
    sign vectors, the same in every call; its square is unbiased, and the error a few per cent.

    Args:
        mix: maps tokens [B, N, C] to [B, M], independently per image, such as the first token of a mechanism's
            output. It must be deterministic, such as a module in evaluation mode.
        x: tokens [B, N, C].
        directions: maximum number of vector-Jacobian products per image.
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
        # One copy of the image per direction: a single backward pass gives all vector-Jacobian products.
        with torch.enable_grad():
            copies = image.repeat(len(some), 1, 1).requires_grad_()
            (products,) = torch.autograd.grad((mix(copies) * some).sum(), copies, materialize_grads=True)
        total += products.square().sum(dim=(0, 2))
    return total


def _directions(width: int, count: int) -> Tensor:
    """Vectors [n, width] whose outer products sum to the identity, in expectation if there are fewer than `width`."""
    if width <= count:
        return torch.eye(width)
    signs = torch.randint(0, 2, (count, width), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return signs / math.sqrt(count)
