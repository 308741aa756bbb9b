from contextlib import nullcontext

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fvit.attention import GatedAttention, ReLUAttention, SigmoidAttention, SoftmaxAttention
from fvit.attention.ops import associate, convolve_patches, divide, kernel_average, pair_bias, unit, without_autocast

from .cuda_autocast import CudaAutocast
from .suite import randomise


def test_divide_returns_the_numerator_where_the_denominator_is_0():
    numerator, denominator = torch.tensor([6.0, 0.0]), torch.tensor([3.0, 0.0], requires_grad=True)
    out = divide(numerator, denominator)
    assert out.tolist() == [2, 0]
    out.sum().backward()
    assert denominator.grad.isfinite().all()


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15])
def test_unit_has_length_one(size, dim):
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) * size
    torch.testing.assert_close(torch.linalg.vector_norm(unit(x, dim), dim=dim), torch.ones(4))


def test_unit_of_zero_is_zero_with_a_finite_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    out = unit(x, -1)
    out.sum().backward()
    assert not out.any()
    assert x.grad.isfinite().all()


def test_pair_bias_without_a_mask_counts_all_keys():
    bias, count = pair_bias(None, False, torch.zeros(2, 5, 8))
    assert bias is None
    assert count.tolist() == [5]


@pytest.mark.parametrize("filling", [float("-inf"), torch.finfo(torch.float32).min])
def test_pair_bias_counts_the_keys_of_each_query(filling):
    seen = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    as_float = torch.zeros(3, 3).masked_fill(~seen, filling)
    for mask in (seen, as_float):
        bias, count = pair_bias(mask, False, torch.zeros(2, 3, 8))
        assert torch.equal(bias.exp() > 0, seen)
        assert count.flatten().tolist() == [2, 3, 1]
    _, causal = pair_bias(None, True, torch.zeros(2, 3, 8))
    assert causal.flatten().tolist() == [1, 2, 3]


def test_pair_bias_counts_a_mask_that_is_broadcast_over_keys():
    _, count = pair_bias(torch.ones(2, 1, 3, 1, dtype=torch.bool), False, torch.zeros(2, 3, 8))
    assert count.flatten().tolist() == [3] * 6


@pytest.mark.parametrize("mechanism", [ReLUAttention, SigmoidAttention])
def test_a_float_mask_is_added_to_the_logits(mechanism):
    torch.manual_seed(0)
    module = randomise(mechanism(3, 1, dtype=torch.float64))
    x, mask = torch.randn(1, 4, 3, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    q, k, v = module.qkv(x[0]).chunk(3, dim=-1)
    logits = q @ k.T / 3**0.5 + mask
    weights = logits.clamp(min=0) / 4 if mechanism is ReLUAttention else 1 / (1 + 4 * torch.exp(-logits))
    torch.testing.assert_close(module(x, attn_mask=mask)[0], module.proj(weights @ v), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mechanism", [GatedAttention, ReLUAttention, SigmoidAttention, SoftmaxAttention])
def test_a_head_in_which_a_query_sees_no_key_gives_it_0(mechanism):
    module = randomise(mechanism(8, 2, dtype=torch.float64))
    module.proj.weight.data[:, 4:] = 0  # which reads the other head
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[0, 1] = False
    x = torch.randn(1, 3, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x, attn_mask=mask)[0, 1], module.proj.bias)
    assert not module.weights(x, attn_mask=mask)["map"][0, 0, 1].any()


def test_convolve_patches_excludes_prefix_tokens():
    conv = randomise(torch.nn.Conv2d(4, 4, 3, padding=1, groups=4))
    x = torch.randn(2, 2 + 6, 4)
    out = convolve_patches(conv, x, (2, 3), 2)
    assert not out[:, :2].any()
    patches = x[:, 2:].reshape(2, 2, 3, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(out[:, 2:].reshape(2, 2, 3, 4).permute(0, 3, 1, 2), conv(patches))


@pytest.mark.parametrize("tokens", [1, 3, 5, 6, 7, 20])
def test_both_orders_of_a_product_are_equal(tokens):
    q, k = torch.randn(2, 2, 3, tokens, 4, dtype=torch.float64)
    v = torch.randn(2, 3, tokens, 12, dtype=torch.float64)
    expected = torch.einsum("bhnm,bhlm,bhld->bhnd", q, k, v)
    torch.testing.assert_close(associate(q, k, v), expected, rtol=1e-12, atol=1e-12)
    weights = q.square() @ k.square().mT
    average = weights @ v / weights.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(kernel_average(q.square(), k.square(), v), average, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_kernel_average_of_many_tokens_neither_overflows_nor_vanishes_in_float16(size, autocast):
    q, k = (size * torch.rand(2, 1, 1, 1025, 64, generator=torch.Generator().manual_seed(0))).half()
    v = torch.randn(1, 1, 1025, 64, generator=torch.Generator().manual_seed(1)).half()
    leaves = [t.requires_grad_() for t in (q, k, v)]
    with CudaAutocast(torch.float16) if autocast else nullcontext():
        out = kernel_average(*leaves)
    assert out.dtype == torch.float16
    exact = kernel_average(*(t.double() for t in leaves))
    assert (out - exact).norm() < 1e-3 * exact.norm()
    for ours, theirs in zip(*(torch.autograd.grad(t.sum(), leaves) for t in (out, exact)), strict=True):
        assert ours.isfinite().all()
        assert (ours - theirs).norm() < 3e-3 * theirs.norm()


def test_short_floats_keep_their_dtype_without_autocast():
    q, k, v = torch.rand(3, 1, 1, 5, 4).bfloat16()
    assert kernel_average(q, k, v).dtype == torch.bfloat16
    with CudaAutocast(torch.bfloat16):
        assert kernel_average(q, k, v).dtype == torch.bfloat16
        assert (q.float() @ k.float().mT).dtype == torch.bfloat16
        with without_autocast(q.device):
            assert (q.float() @ k.float().mT).dtype == torch.float32
    assert isinstance(without_autocast(torch.device("meta")), nullcontext)


@pytest.mark.parametrize("tokens", [5, 6, 7, 400])
def test_the_order_with_fewer_macs_is_used(tokens):
    """With 4 features and a head width of 12 both orders cost the same at 6 tokens."""
    q, k, v = (torch.empty(1, 1, tokens, width, device="meta") for width in (4, 4, 12))
    counter = FlopCounterMode(display=False)
    with counter:
        associate(q, k, v)
    assert counter.get_total_flops() // 2 == min(tokens**2 * (4 + 12), 2 * tokens * 4 * 12)
