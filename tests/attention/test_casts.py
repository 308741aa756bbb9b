"""What bf16 autocast copies to another dtype on CUDA: the tokens once, and in most mechanisms nothing else."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .cases import DEFAULTS, FULL
from .cuda_autocast import CudaAutocast
from .suite import build, over, tokens_of

CASES = [*DEFAULTS, *(case for case in FULL if case not in DEFAULTS)]
# Widths and numbers of tokens at which no weight is as large as the tokens.
SHAPE = dict(width=16, heads=2, dtype=torch.float32, grid=(8, 8))
ONCE = (
    *("additive", "additive_plus", "linear", "softmax", "relu", "gated", "relu_linear", "cosformer", "inline", "mala"),
    *("catm", "agent", "mlla", "window", "ttt", "sep_conv", "neighborhood"),
)
"""Mechanisms that copy nothing else of this size, as their papers define them; others need float32 inside.

A bias with a gradient takes a CPU's attention, but not CUDA's, to kernels that copy.
"""


class Casts(TorchDispatchMode):
    """Counts copies of as many floats as there are tokens to 16 bits, and those of the tokens themselves."""

    def __init__(self, x):
        super().__init__()
        self.x, self.of_tokens, self.all = x, 0, 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        if operator is torch.ops.aten._to_copy.default and out.dtype == torch.bfloat16 != args[0].dtype:
            self.of_tokens += args[0].untyped_storage().data_ptr() == self.x.untyped_storage().data_ptr()
            self.all += out.numel() >= self.x.numel()
        return out


def casts_of(case):
    module = build(case, **SHAPE)
    x = tokens_of(module, batch=32).requires_grad_()
    with CudaAutocast(torch.bfloat16), Casts(x) as casts:
        module(x)
    return casts


@over(CASES)
def test_tokens_are_cast_once(case):
    casts = casts_of(case)
    assert casts.of_tokens <= 1
    if case.key in ONCE and case in DEFAULTS:
        assert casts.all == 1


@pytest.mark.parametrize("key", ["differential", "gla", "mhla", "nala", "nc_ssd", "gmlp", "softmax"])
def test_norms_return_the_dtype_of_their_input(key):
    """Autocast makes norms return float32, which costs a cast and twice the memory."""
    case = next(case for case in FULL if case.key == key)
    module = build(case, **SHAPE)
    norms = [part for part in module.modules() if isinstance(part, torch.nn.RMSNorm | torch.nn.LayerNorm)]
    assert norms
    for norm in norms:
        x = torch.randn(2, 3, *norm.normalized_shape, requires_grad=True)
        with CudaAutocast(torch.bfloat16):
            out = norm(x.bfloat16())
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), norm(x), rtol=2e-2, atol=2e-2)
        out.sum().backward()
        assert norm.weight.grad.dtype == torch.float32
