"""Keeping what depends on weights alone from one forward pass to the next."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class WeightCache:
    """What a function made of weights, made again as soon as they differ.

    The weights are compared by their values with a copy of them. Version counters and addresses are cheaper and not
    enough: callbacks that swap averaged weights in write through ``.data``, which no counter sees. So this pays for
    products of weights, D³, whose factors are read in D². On a GPU the host waits for the answer, once each time.

    Nothing is kept while gradients are recorded, on the meta device, or while a compiler, a trace or a CUDA graph
    records what is computed, which could neither wait nor see the weights change; a copy of the module starts without
    it.
    """

    def __init__(self) -> None:
        self._kept: tuple[list[Tensor | None], object, object] | None = None

    def get(self, make: Callable[[], Made], *weights: Tensor | None) -> Made:
        """``make()``, or what it returned for the same weights, in the same autocast mode."""
        device = weights[0].device.type
        if torch.is_grad_enabled() or device == "meta" or _recorded():
            self._kept = None
            return make()
        mode = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        if self._kept is None or self._kept[1] != mode or not _same(self._kept[0], weights):
            self._kept = ([None if w is None else w.detach().clone() for w in weights], mode, make())
        return self._kept[2]

    def __deepcopy__(self, memo: dict[int, object]) -> "WeightCache":
        return WeightCache()

    def __reduce__(self) -> tuple[type["WeightCache"], tuple[()]]:
        return WeightCache, ()


def _recorded() -> bool:
    """Whether operations are recorded, to be run again with other weights."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _same(kept: Sequence[Tensor | None], weights: Sequence[Tensor | None]) -> bool:
    """Whether all are what they were, by value, shape, dtype and device."""
    if [_kind(k) for k in kept] != [_kind(w) for w in weights]:
        return False
    pairs = [(k, w) for k, w in zip(kept, weights, strict=True) if k is not None]
    if all(w.device.type == "cpu" for _, w in pairs):
        return all(torch.equal(k, w) for k, w in pairs)
    return _equal_at_once(pairs)


def _kind(weight: Tensor | None) -> tuple[torch.Size, torch.dtype, torch.device] | None:
    return None if weight is None else (weight.shape, weight.dtype, weight.device)


def _equal_at_once(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """As `torch.equal` of each pair, with one answer to wait for; on a CPU that takes twice as long."""
    return bool(torch.stack([(one == other).all() for one, other in pairs]).all())
