"""Count parameters and MACs of a model, on the meta device.

MACs follow torch's FlopCounterMode, which counts matrix products and convolutions. The formulas here add elementwise
products of two tensors, products with a vector, Fourier transforms and average pooling. Sums, norms, exponentials and
other functions of one tensor count 0.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fvit.attention import Mechanism

aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """The cost of one image.

    Attributes:
        params: number of parameters.
        macs_paper: MACs of convolutions and linear layers, as papers report them under the name "FLOPs": without the
            products inside attention, and with mechanisms evaluated as their formula is written. Every call of the two
            operations counts, whichever module makes it; ``x @ weight`` is a product like any other.
        macs: MACs of all products that are computed, including matrix products without weights, elementwise products,
            Fourier transforms (5/2 n log₂ n for n complex numbers, half of it for real ones) and average pooling (one
            per element of a window), in the form that a mechanism chooses for this size.
    """

    params: int
    macs_paper: int
    macs: int

    def metrics(self) -> dict[str, float]:
        """By the names of a run's metrics."""
        return {"cost/params": self.params, "cost/macs": self.macs, "cost/macs_paper": self.macs_paper}


def count(model: nn.Module, input_size: Sequence[int] | int) -> Cost:
    """Count parameters and MACs of one forward pass in inference.

    The pass runs on the meta device: no fused kernel hides its products, and nothing is computed. `model` is unchanged.

    Args:
        model: maps images [B, C, H, W].
        input_size: (C, H, W), or of an RGB image in pixels (H, W) or the side of a square.
    """
    shape = (3, *to_2tuple(input_size)) if isinstance(input_size, int) or len(input_size) == 2 else tuple(input_size)
    # Detached, because torch's counter fails on views of parameters, which CaiT makes of its class token.
    meta = {name: t.detach().to("meta") for name, t in [*model.named_parameters(), *model.named_buffers()]}
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    image = torch.empty(1, *shape, device="meta", dtype=dtype)
    was_training = [m for m in model.modules() if m.training]
    model.eval()
    layers = _LayerCounter()
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    try:
        with torch.inference_mode(), _textbook_forms(model), layers:
            functional_call(model, meta, (image,))
        with torch.no_grad(), counter:
            functional_call(model, meta, (image,))
    finally:
        for module in was_training:
            module.training = True
    params = sum(p.numel() for p in model.parameters())
    return Cost(params=params, macs_paper=layers.macs, macs=counter.get_total_flops() // 2)


@contextmanager
def _textbook_forms(model: nn.Module) -> Iterator[None]:
    """Evaluate mechanisms that have several forms as their formula is written."""
    forms = {m: m.form for m in model.modules() if isinstance(m, Mechanism)}
    try:
        for mechanism in forms:
            mechanism.form = "textbook"
        yield
    finally:
        for mechanism, form in forms.items():
            mechanism.form = form


class _LayerCounter(TorchDispatchMode):
    """Adds up the MACs of all linear layers and convolutions, by whatever module they are called.

    Use it in inference mode. Elsewhere torch hands on a linear layer as a matrix product like any other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator not in (aten.linear.default, aten.convolution.default):
            with self:
                parts = operator.decompose(*args, **(kwargs or {}))
            return operator(*args, **(kwargs or {})) if parts is NotImplemented else parts
        out = operator(*args, **(kwargs or {}))
        x, weight, transposed = args[0], args[1], operator is aten.convolution.default and args[6]
        self.macs += (x if transposed else out).numel() * math.prod(weight.shape[1:])
        return out


# FLOPs of operators, two per MAC.


def _elementwise(left: object, right: object, *, out_val: Tensor, **kwargs: object) -> int:
    """A product of two tensors: one MAC per element, four if both are complex. Scaling by a number counts 0."""
    factors = (left, right)
    if not all(isinstance(factor, Tensor) and factor.numel() > 1 for factor in factors):
        return 0
    return 2 * out_val.numel() * math.prod(2 if factor.is_complex() else 1 for factor in factors)


def _add_elementwise(added: object, left: object, right: object, *, out_val: Tensor, **kwargs: object) -> int:
    return _elementwise(left, right, out_val=out_val)


def _with_vector(left: Tensor, vector: Tensor, *, out_val: Tensor, **kwargs: object) -> int:
    """A matrix or a vector times a vector."""
    return 2 * left.numel()


def _add_with_vector(added: Tensor, matrix: Tensor, vector: Tensor, *, out_val: Tensor, **kwargs: object) -> int:
    return 2 * matrix.numel()


def _complex_transform(x: Tensor, dim: Sequence[int], *args: object, out_val: Tensor) -> int:
    """5 n log₂ n for n complex numbers: radix 2, and what FFTW's benchmark counts for every algorithm."""
    return round(5 * x.numel() * math.log2(math.prod(x.shape[axis] for axis in dim)))


def _real_transform(x: Tensor, dim: Sequence[int], *args: object, out_val: Tensor) -> int:
    """Half of a complex transform; either input or output is real."""
    real = out_val if x.is_complex() else x
    return _complex_transform(real, dim, out_val=out_val) // 2


def _pooling(x: Tensor, window: Sequence[int], *args: object, out_val: Tensor) -> int:
    return 2 * out_val.numel() * window[0] * window[-1]


def _adaptive_pooling(x: Tensor, size: Sequence[int], *args: object, out_val: Tensor) -> int:
    """Windows may overlap; their sizes follow from the output's."""
    rows, columns = (
        sum(-(-(i + 1) * whole // parts) - i * whole // parts for i in range(parts))
        for whole, parts in zip(x.shape[-2:], size, strict=True)
    )
    return 2 * math.prod(x.shape[:-2]) * rows * columns


FORMULAS: dict[object, Callable[..., int]] = {
    aten.mul: _elementwise,
    aten.mul_: _elementwise,
    aten.addcmul: _add_elementwise,
    aten.mv: _with_vector,
    aten.addmv: _add_with_vector,
    aten.dot: _with_vector,
    aten._fft_c2c: _complex_transform,
    aten._fft_r2c: _real_transform,
    aten._fft_c2r: _real_transform,
    aten.avg_pool2d: _pooling,
    aten._adaptive_avg_pool2d: _adaptive_pooling,
}
"""FLOPs by operator, for ``FlopCounterMode(custom_mapping=…)``."""

for formula in FORMULAS.values():
    formula._get_raw = True  # so that torch passes tensors, not only their shapes
