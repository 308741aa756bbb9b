import random

import pytest
import torch

from fvit.attention import Linear

from . import references
from .references import assert_equals_reference, randomise


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("biases", [{}, {"qkv_bias": False}, {"proj_bias": False}], ids=str)
def test_equals_the_formula(biases, mask, seed):
    torch.manual_seed(seed)
    shape = random.Random(f"{biases}{mask}{seed}")
    batch, tokens, heads, head_dim = (shape.randint(1, high) for high in (3, 6, 4, 4))
    module = randomise(Linear(heads * head_dim, heads, dtype=torch.float64, **biases), std=0.7)
    forward, key_bias = {}, None
    if mask == "float":
        key_bias = torch.randn(batch, tokens, dtype=torch.float64)
        forward = {"attn_mask": key_bias[:, None, None]}
    if mask == "bool":
        keep = torch.rand(batch, tokens) < 0.6
        keep[:, 0] = True
        key_bias = torch.zeros(batch, tokens, dtype=torch.float64).masked_fill(~keep, float("-inf"))
        forward = {"attn_mask": keep[:, None, None]}
    x = torch.randn(batch, tokens, heads * head_dim, dtype=torch.float64)
    assert_equals_reference(module, lambda x, weights: references.linear(x, weights, heads, key_bias), x, **forward)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [30.0, 100.0, 1e4])
def test_values_stay_finite_where_the_kernel_underflows(scale, dtype):
    x, module = _underflowing(scale, dtype)
    assert module(x).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gradients_stay_finite_where_the_kernel_underflows(dtype):
    x, module = _underflowing(1e4, dtype)
    module(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in [x, *module.parameters()])


def _underflowing(scale, dtype):
    """A module whose q and k are its input, and tokens so negative that φ = elu + 1 is 0 or nearly so."""
    torch.manual_seed(0)
    module = randomise(Linear(8, 2, dtype=dtype))
    torch.nn.init.zeros_(module.qkv.bias)
    module.qkv.weight.data = torch.eye(8, dtype=dtype).repeat(3, 1)
    return (-scale * (1 + torch.rand(2, 6, 8))).to(dtype).requires_grad_(), module
