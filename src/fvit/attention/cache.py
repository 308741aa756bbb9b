"""Keeping what depends on weights alone from one forward pass to the next."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class WeightCache:
    """What a function made of weights, made again as soon as they differ.

    The weights are compared by their values with a copy of them. Version counters and addresses are cheaper and not
    enough: callbacks that swap averaged weights in write through ``.data``, which no counter sees. So this pays for
    products of weights, D³, whose factors are read in D².

    Nothing is kept while gradients are recorded, on the meta device, or while a graph is captured; a copy of the
    module starts without it.
    """

    def __init__(self) -> None:
        self._kept: tuple[list[Tensor | None], object, object] | None = None

    def get(self, make: Callable[[], Made], *weights: Tensor | None) -> Made:
        """``make()``, or what it returned for the same weights, in the same autocast mode."""
        device = weights[0].device.type
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or device == "meta":
            self._kept = None
            return make()
        mode = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        if self._kept is None or self._kept[1] != mode or not all(map(_same, self._kept[0], weights)):
            self._kept = ([None if w is None else w.detach().clone() for w in weights], mode, make())
        return self._kept[2]

    def __deepcopy__(self, memo: dict[int, object]) -> "WeightCache":
        return WeightCache()

    def __reduce__(self) -> tuple[type["WeightCache"], tuple[()]]:
        return WeightCache, ()


def _same(kept: Tensor | None, weight: Tensor | None) -> bool:
    if kept is None or weight is None:
        return kept is weight
    return kept.dtype == weight.dtype and kept.device == weight.device and torch.equal(kept, weight)
