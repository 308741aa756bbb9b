import torch

from fvit.attention import ReLULinearAttention

from ..suite import randomise


def test_the_first_half_of_the_heads_is_not_aggregated():
    """If the second half of the output projection is 0, the aggregated heads have no effect."""
    module = randomise(ReLULinearAttention(8, 2, aggregate=3, dtype=torch.float64))
    module.set_layout((2, 3), 1)
    with torch.no_grad():
        module.proj.weight[:, 8:] = 0
    plain = ReLULinearAttention(8, 2, dtype=torch.float64)
    weights = {name: value for name, value in module.state_dict().items() if not name.startswith("aggregate")}
    plain.load_state_dict({**weights, "proj.weight": weights["proj.weight"][:, :8]})
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x), plain(x))


def test_the_convolution_reaches_only_neighbours():
    torch.manual_seed(0)
    module = randomise(ReLULinearAttention(8, 2, conv=3, dtype=torch.float64))
    module.set_layout((1, 9), 1)
    plain = ReLULinearAttention(8, 2, dtype=torch.float64)
    plain.load_state_dict({name: value for name, value in module.state_dict().items() if not name.startswith("conv")})
    x = torch.randn(1, 10, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5] += 1
    local = [module(tokens) - plain(tokens) for tokens in (x, changed)]
    affected = (local[0] - local[1]).abs().amax(dim=(0, 2)) > 1e-9
    assert affected.nonzero().flatten().tolist() == [4, 5, 6]


def test_a_query_orthogonal_to_all_keys_gets_zero():
    module = ReLULinearAttention(4, 1, dtype=torch.float64)
    with torch.no_grad():
        module.qkv.weight[:4] = -torch.eye(4)
        module.qkv.bias.zero_()
    x = torch.rand(1, 3, 4, dtype=torch.float64).requires_grad_()
    out = module(x)
    torch.testing.assert_close(out, module.proj.bias.expand_as(out))
    out.sum().backward()
    assert x.grad.isfinite().all()
