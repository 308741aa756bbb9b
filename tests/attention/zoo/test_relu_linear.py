import pytest
import torch

from fvit.attention import ReluLinear

from ..suite import randomise


@pytest.mark.parametrize("width", [-1, 2, 4])
@pytest.mark.parametrize("option", ["conv", "aggregate"])
def test_a_kernel_without_a_centre_is_refused(option, width):
    with pytest.raises(ValueError, match=f"{option}={width} has no centre; take an odd width, or 0 for none"):
        ReluLinear(16, 4, **{option: width})


@pytest.mark.parametrize("option", ["conv", "aggregate"])
def test_the_grid_is_needed_for_convolutions_alone(option):
    assert ReluLinear(16, 4, **{option: 3}).needs_grid
    assert not ReluLinear(16, 4).needs_grid


@pytest.mark.parametrize("option", ["conv", "aggregate"])
@pytest.mark.parametrize("layout", [None, ((2, 2), 1), ((3, 2), 0)], ids=str)
def test_tokens_that_do_not_fill_the_grid_are_refused(option, layout):
    module = ReluLinear(16, 4, **{option: 3})
    if layout:
        module.set_layout(*layout)
    with pytest.raises(ValueError, match="a convolution of patches got 7 tokens"):
        module(torch.randn(1, 7, 16))


def test_without_aggregation_the_first_half_of_the_heads_is_left():
    """Where the second half of the output projection is 0, the aggregated heads count for nothing."""
    module = randomise(ReluLinear(8, 2, aggregate=3, dtype=torch.float64))
    module.set_layout((2, 3), 1)
    with torch.no_grad():
        module.proj.weight[:, 8:] = 0
    plain = ReluLinear(8, 2, dtype=torch.float64)
    weights = {name: value for name, value in module.state_dict().items() if not name.startswith("aggregate")}
    plain.load_state_dict({**weights, "proj.weight": weights["proj.weight"][:, :8]})
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x), plain(x))


def test_the_convolution_reaches_neighbours_alone():
    """Of the patches of a 1×9 grid, those further than the kernel's reach feel a change through attention alone."""
    torch.manual_seed(0)
    module = randomise(ReluLinear(8, 2, conv=3, dtype=torch.float64))
    module.set_layout((1, 9), 1)
    plain = ReluLinear(8, 2, dtype=torch.float64)
    plain.load_state_dict({name: value for name, value in module.state_dict().items() if not name.startswith("conv")})
    x = torch.randn(1, 10, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5] += 1
    local = [module(tokens) - plain(tokens) for tokens in (x, changed)]
    felt = (local[0] - local[1]).abs().amax(dim=(0, 2)) > 1e-9
    assert felt.nonzero().flatten().tolist() == [4, 5, 6]


def test_a_query_that_meets_no_key_gets_nothing():
    module = ReluLinear(4, 1, dtype=torch.float64)
    with torch.no_grad():
        module.qkv.weight[:4] = -torch.eye(4)
        module.qkv.bias.zero_()
    x = torch.rand(1, 3, 4, dtype=torch.float64).requires_grad_()
    out = module(x)
    torch.testing.assert_close(out, module.proj.bias.expand_as(out))
    out.sum().backward()
    assert x.grad.isfinite().all()
