import torch

from fvit.attention import AgentAttention

from ..suite import randomise


def random_agent(grid=(2, 2), prefix=1, **options):
    torch.manual_seed(0)
    module = AgentAttention(8, 2, dtype=torch.float64, **{"num_agents": 4, **options})
    module.set_layout(grid, prefix)
    return randomise(module, std=0.5)


def test_with_one_agent_per_patch_the_agents_are_the_queries():
    module = random_agent()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in module.qkv(x).chunk(3, dim=-1))
    agents = q[:, :, 1:]
    out = (q @ agents.mT / 2).softmax(dim=-1) @ ((agents @ k.mT / 2).softmax(dim=-1) @ v)
    torch.testing.assert_close(module(x), module.proj(out.transpose(1, 2).flatten(2)))


def test_zero_position_biases_change_nothing():
    biased, plain = random_agent(position_bias=True), random_agent()
    with torch.no_grad():
        for name, parameter in biased.named_parameters():
            if name.startswith("position_bias"):
                parameter.zero_()
    plain.load_state_dict({name: t for name, t in biased.state_dict().items() if name in plain.state_dict()})
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(biased(x), plain(x))


def test_position_biases_follow_the_grid():
    module = random_agent((2, 4), position_bias=True)
    biases = module.position_bias
    before = {name: t.clone() for name, t in biases.named_parameters()}
    module.set_layout((6, 4), 1)
    assert biases.rows.shape == (2, 2, 4, 6)
    assert torch.equal(biases.columns, before["columns"])
    assert torch.equal(biases.map, before["map"])
    # From two rows to six, bicubic interpolation preserves the mean and is monotonic.
    torch.testing.assert_close(biases.rows.mean(dim=-1), before["rows"].mean(dim=-1))
    assert torch.equal(biases.rows.diff().sign(), before["rows"].diff().sign().expand(-1, -1, -1, 5))
    assert module(torch.randn(1, 25, 8, dtype=torch.float64)).isfinite().all()


def test_if_all_patches_are_hidden_the_prefix_tokens_remain():
    module = random_agent(prefix=2)
    x = torch.randn(1, 6, 8, dtype=torch.float64).requires_grad_()
    keep = torch.tensor([1, 1, 0, 0, 0, 0], dtype=torch.bool)[None, None, None]
    out = module(x, attn_mask=keep)
    value = module.qkv(x)[:, :2, 16:].mean(dim=1, keepdim=True)
    torch.testing.assert_close(out, module.proj(value).expand_as(out))
    out.sum().backward()
    assert x.grad.isfinite().all()
