import pytest
import torch

from fvit.attention import AFTFull, AFTSimple

from ..cases import DEFAULTS
from ..suite import randomise
from ..test_numerics import assert_autocast_stays_near_the_float64_result


def test_it_starts_as_aft_simple():
    torch.manual_seed(0)
    module, simple = AFTFull(16, 4, rank=None, dtype=torch.float64), AFTSimple(16, 4, dtype=torch.float64)
    module.set_layout((2, 3), 1)
    simple.load_state_dict({name: value for name, value in module.state_dict().items() if name in simple.state_dict()})
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(module(x), simple(x), rtol=1e-12, atol=1e-12)


def test_a_large_bias_selects_one_token():
    torch.manual_seed(0)
    module = randomise(AFTFull(16, 4, rank=None, dtype=torch.float64))
    module.set_layout((2, 3), 1)
    with torch.no_grad():
        module.position_bias[:, 3] = 100
    q, _, v = module.qkv(x := torch.randn(2, 7, 16, dtype=torch.float64)).chunk(3, dim=-1)
    torch.testing.assert_close(module(x), module.proj(q.sigmoid() * v[:, 3:4]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opposing_keys_and_biases_give_finite_results(dtype):
    """No token is near both its channel's largest key and its row's largest bias."""
    torch.manual_seed(0)
    module = randomise(AFTFull(16, 4, rank=None, dtype=dtype), std=0.5)
    module.set_layout((2, 3), 1)
    with torch.no_grad():
        module.position_bias[:, 0] = -1e3
    x = torch.zeros(2, 7, 16, dtype=dtype)
    x[:, 0] = 1e3
    x.requires_grad_()
    out = module(x)
    out.float().square().sum().backward()
    assert out.isfinite().all()
    assert all(tensor.grad.isfinite().all() for tensor in (x, *module.parameters()))


def test_large_keys_and_biases_do_not_underflow_float16():
    """Few tokens are near both maxima, so both sums are small: half precision would lose them and their gradients."""
    torch.manual_seed(0)
    module = AFTFull(64, 1, rank=None)
    module.set_layout((14, 14), 1)
    torch.nn.init.normal_(module.qkv.weight, std=0.5)
    torch.nn.init.normal_(module.position_bias, std=3)
    case = next(case for case in DEFAULTS if case.key == "aft_full")
    assert_autocast_stays_near_the_float64_result(case, module, torch.float16)


def test_parameters_of_the_papers_imagenet_model():
    """The paper reports 6.3 M for AFT-full in DeiT-T: DeiT-T's 5.7 M and two factors of rank 128 per layer."""
    module = AFTFull(192, 3)
    module.set_layout((14, 14), 1)
    extra = module.query_position.numel() + module.key_position.numel()
    deit_tiny_without_position_embedding = 5_717_416 - 197 * 192
    assert round((deit_tiny_without_position_embedding + 12 * extra) / 1e6, 1) == 6.3
