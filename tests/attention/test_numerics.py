"""Short floats stay near the float64 result where possible, and finite for extreme inputs."""

import copy

import pytest
import torch
from torch import nn

from .cases import FULL, GRIDS
from .cuda_autocast import CudaAutocast
from .suite import build, every_case, every_path, full_first, over, tokens_of, values_and_gradients
from .test_masks import KINDS, mask_over_keys

DTYPES = (torch.float32, torch.bfloat16)


def relative_errors(ours, exact):
    """‖error‖/‖exact‖ of the output, and of all gradients concatenated: one of them alone may be 0 up to rounding."""
    for part in ("out", "d "):
        actual, expected = (
            torch.cat([t.flatten().double() for name, t in results.items() if name.startswith(part)])
            for results in (ours, exact)
        )
        yield ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@every_path
def test_stays_near_the_float64_result(case, dtype):
    module = build(case, std=0.25, dtype=dtype)
    x = tokens_of(module).to(dtype)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    # The reference takes the rounded weights and tokens, so only the arithmetic differs.
    exact = copy.deepcopy(module).double()
    ours = values_and_gradients(module, module, x, upstream)
    theirs = values_and_gradients(exact, lambda x: case.reference(exact, x, None), x.double(), upstream.double())
    bound = {torch.float32: case.float32, torch.bfloat16: case.bfloat16}[dtype]
    assert all(error <= bound for error in relative_errors(ours, theirs))  # no maximum, which passes over NaN


def assert_autocast_stays_near_the_float64_result(case, module, dtype):
    """Within `case.bfloat16`, or an eighth for float16, which has three bits more. Weights and tokens are rounded."""
    module.to(dtype).float()
    x = tokens_of(module).to(dtype).float()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    exact = copy.deepcopy(module).double()

    def forward(x):
        with CudaAutocast(dtype):  # and not around the backward pass
            return module(x)

    ours = values_and_gradients(module, forward, x, upstream)
    theirs = values_and_gradients(exact, exact, x.double(), upstream.double())
    bound = case.bfloat16 / (8 if dtype == torch.float16 else 1)
    assert all(error <= bound for error in relative_errors(ours, theirs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@every_case
def test_autocast_stays_near_the_float64_result(case, dtype):
    assert_autocast_stays_near_the_float64_result(case, build(case, std=0.25, dtype=torch.float32), dtype)


@pytest.mark.slow
@full_first(pytest.mark.exhaustive)
def test_a_thousand_tokens_do_not_overflow_float16(case):
    """With queries, keys and values of size 1 in a head of 64 channels, whose products would pass 65,504 in a sum."""
    module = build(case, std=0, dtype=torch.float32, width=64, heads=1, grid=(32, 32))
    for name, weight in module.named_parameters():
        if name.startswith(("q", "k", "v")) and weight.ndim == 2:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    assert_autocast_stays_near_the_float64_result(case, module, torch.float16)


def assert_finite(module, x, **forward):
    """Values and gradients of `module` at x are finite."""
    x = x.detach().clone().requires_grad_()
    out = module(x, **forward)
    # Each row has a weight of its own: the gradient of a plain sum vanishes through a softmax.
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    assert out.isfinite().all()
    for name, tensor in [("x", x), *module.named_parameters()]:
        assert tensor.grad.isfinite().all(), f"gradient of {name}"


@every_path
def test_extreme_tokens_give_finite_results(case):
    for dtype in DTYPES:
        module = build(case, std=0, dtype=dtype)
        x = tokens_of(module).to(dtype)
        for extreme in (1e4 * x, x * 0 - 1e4, x * 0 + 1, x * 0):
            assert_finite(module, extreme)
        if case.grids == GRIDS:
            single = build(case, std=0, dtype=dtype, grid=(1, 1), prefix=0)
            assert_finite(single, tokens_of(single).to(dtype))


@over(FULL, lambda case: case.masks)
def test_all_but_one_token_masked_gives_finite_results(case):
    for dtype in DTYPES:
        module = build(case, dtype=dtype)
        x = tokens_of(module).to(dtype)
        keep = (torch.arange(x.shape[1]) == 2).expand(2, -1)
        for scale in (1.0, 1e4):
            for kind in KINDS:
                assert_finite(module, x * scale, attn_mask=mask_over_keys(keep, kind, dtype))
