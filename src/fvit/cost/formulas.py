"""Formulas for products that torch's FlopCounterMode lacks: elementwise, with a vector, Fourier transforms, pooling.

Each tells FLOPs, two a multiply-accumulate, of the operator it is registered for. Sums, norms, exponentials and other
functions of one tensor count nothing.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

aten = torch.ops.aten


def _elementwise(left: object, right: object, *, out_val: Tensor, **kwargs: object) -> int:
    """A product of two tensors: one MAC an output element, four if both are complex; a number as factor is free."""
    factors = (left, right)
    if not all(isinstance(factor, Tensor) and factor.numel() > 1 for factor in factors):
        return 0
    return 2 * out_val.numel() * math.prod(2 if factor.is_complex() else 1 for factor in factors)


def _add_elementwise(added: object, left: object, right: object, *, out_val: Tensor, **kwargs: object) -> int:
    return _elementwise(left, right, out_val=out_val)


def _with_vector(left: Tensor, vector: Tensor, *, out_val: Tensor, **kwargs: object) -> int:
    """A matrix or a vector times a vector: each of its elements is multiplied once."""
    return 2 * left.numel()


def _add_with_vector(added: Tensor, matrix: Tensor, vector: Tensor, *, out_val: Tensor, **kwargs: object) -> int:
    return 2 * matrix.numel()


def _complex_transform(x: Tensor, dim: Sequence[int], *args: object, out_val: Tensor) -> int:
    """5 n log₂ n for n complex numbers: what radix 2 takes, and what FFTW's benchmark counts for every algorithm."""
    return round(5 * x.numel() * math.log2(math.prod(x.shape[axis] for axis in dim)))


def _real_transform(x: Tensor, dim: Sequence[int], *args: object, out_val: Tensor) -> int:
    """Half of that, whichever side of it is real."""
    real = out_val if x.is_complex() else x
    return _complex_transform(real, dim, out_val=out_val) // 2


def _pooling(x: Tensor, window: Sequence[int], *args: object, out_val: Tensor) -> int:
    """Average pooling: one MAC an element of each window."""
    return 2 * out_val.numel() * window[0] * window[-1]


def _adaptive_pooling(x: Tensor, size: Sequence[int], *args: object, out_val: Tensor) -> int:
    """The same of windows whose sizes follow from that of the output, and which may overlap."""
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
"""By operator, for ``FlopCounterMode(custom_mapping=…)``."""

for formula in FORMULAS.values():
    formula._get_raw = True  # torch hands it the tensors; otherwise their shapes alone
