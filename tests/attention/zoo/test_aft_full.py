import pytest
import torch

from fvit.attention import AftFull, AftSimple

from ..suite import randomise


def test_a_rank_of_nothing_is_refused():
    with pytest.raises(ValueError, match="rank=0 leaves no bias; take at least 1, or null for a whole matrix"):
        AftFull(16, 4, rank=0)


def test_it_starts_as_aft_without_biases():
    torch.manual_seed(0)
    module, simple = AftFull(16, 4, rank=None, dtype=torch.float64), AftSimple(16, 4, dtype=torch.float64)
    module.set_layout((2, 3), 1)
    simple.load_state_dict({name: value for name, value in module.state_dict().items() if name in simple.state_dict()})
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(module(x), simple(x), rtol=1e-12, atol=1e-12)


def test_a_bias_makes_a_token_the_only_one_that_is_heard():
    torch.manual_seed(0)
    module = randomise(AftFull(16, 4, rank=None, dtype=torch.float64))
    module.set_layout((2, 3), 1)
    with torch.no_grad():
        module.position_bias[:, 3] = 100
    q, _, v = module.qkv(x := torch.randn(2, 7, 16, dtype=torch.float64)).chunk(3, dim=-1)
    torch.testing.assert_close(module(x), module.proj(q.sigmoid() * v[:, 3:4]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_biases_that_contradict_each_other_give_finite_results(dtype):
    """No token comes near both its channel's largest key and its row's largest bias."""
    torch.manual_seed(0)
    module = randomise(AftFull(16, 4, rank=None, dtype=dtype), std=0.5)
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


def test_parameters_of_the_papers_imagenet_model():
    """AFT-full in DeiT-T is printed with 6.3 M parameters: DeiT-T's 5.7 M and two factors of rank 128 a layer."""
    module = AftFull(192, 3)
    module.set_layout((14, 14), 1)
    extra = module.query_position.numel() + module.key_position.numel()
    deit_tiny_without_position_embedding = 5_717_416 - 197 * 192
    assert round((deit_tiny_without_position_embedding + 12 * extra) / 1e6, 1) == 6.3
