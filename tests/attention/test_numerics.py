"""Short floats stay near the float64 result where possible, and finite for extreme inputs."""

import copy

import pytest
import torch

from .cases import FULL, GRIDS
from .suite import build, every_path, over, tokens_of, values_and_gradients
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
    assert max(relative_errors(ours, theirs)) <= {torch.float32: case.float32, torch.bfloat16: case.bfloat16}[dtype]


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's RMSNorm under autocast
@over(FULL)
def test_autocast_to_bfloat16_stays_near_the_float64_result(case):
    """Except for focused attention, whose gradients need the float32 that autocast denies to its matrix products."""
    module = build(case, std=0.25, dtype=torch.float32)
    x = tokens_of(module).float()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    exact = copy.deepcopy(module).double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = values_and_gradients(module, module, x, upstream)
    theirs = values_and_gradients(exact, exact, x.double(), upstream.double())
    assert max(relative_errors(ours, theirs)) <= (0.5 if case.key == "focused" else 0.05)


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
