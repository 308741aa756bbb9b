import pytest
import torch

from fvit.attention import LinearAttention

from ..suite import randomise


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
    """A module whose q and k are its input, and tokens so negative that φ = elu + 1 is about 0."""
    torch.manual_seed(0)
    module = randomise(LinearAttention(8, 2, dtype=dtype))
    torch.nn.init.zeros_(module.qkv.bias)
    module.qkv.weight.data = torch.eye(8, dtype=dtype).repeat(3, 1)
    return (-scale * (1 + torch.rand(2, 6, 8))).to(dtype).requires_grad_(), module
