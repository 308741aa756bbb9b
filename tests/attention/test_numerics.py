"""Short floats: near the float64 result where that is possible, finite where it is not."""

import copy

import pytest
import torch

from .cases import GRIDS
from .suite import build, cases_where, every_case, tokens_of, values_and_gradients
from .test_masks import KINDS, mask_over_keys

short_floats = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.mark.slow
@short_floats
@every_case
def test_stays_near_the_float64_result(case, dtype):
    module = build(case, std=0.25, dtype=dtype)
    x = tokens_of(module).to(dtype)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    # The weights and tokens of the reference are the rounded ones: what is measured is the arithmetic alone.
    exact = copy.deepcopy(module).double()
    ours = values_and_gradients(module, module, x, upstream)
    theirs = values_and_gradients(exact, lambda x: case.reference(exact, x, None), x.double(), upstream.double())
    bound = {torch.float32: case.float32, torch.bfloat16: case.bfloat16}[dtype]
    for part in ("out", "d "):
        # All gradients together, since one of them may be 0 but for rounding: that by a bias of keys, for example.
        expected = torch.cat([t.flatten() for name, t in theirs.items() if name.startswith(part)])
        actual = torch.cat([t.flatten() for name, t in ours.items() if name.startswith(part)]).double()
        error = ((actual - expected).norm() / expected.norm()).item()
        assert error <= bound, f"{'output' if part == 'out' else 'gradients'} off by {error:.1e} of their norm"


def assert_finite(module, x, **forward):
    """Values and gradients of `module` at x are finite."""
    x = x.detach().clone().requires_grad_()
    out = module(x, **forward)
    # Each row with a weight of its own: the gradient of a plain sum vanishes behind a softmax.
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    assert out.isfinite().all()
    for name, tensor in [("x", x), *module.named_parameters()]:
        assert tensor.grad.isfinite().all(), f"gradient by {name}"


@short_floats
@pytest.mark.parametrize("extreme", ["huge", "huge and equal", "equal", "zeros"])
@every_case
def test_extreme_tokens_give_finite_results(case, extreme, dtype):
    module = build(case, std=0, dtype=dtype)
    x = tokens_of(module).to(dtype)
    x = {"huge": 1e4 * x, "huge and equal": x * 0 - 1e4, "equal": x * 0 + 1, "zeros": x * 0}[extreme]
    assert_finite(module, x)


@short_floats
@cases_where(lambda case: case.grids == GRIDS)
def test_one_token_gives_finite_results(case, dtype):
    module = build(case, std=0, dtype=dtype, grid=(1, 1), prefix=0)
    assert_finite(module, tokens_of(module).to(dtype))


@short_floats
@pytest.mark.parametrize("scale", [1.0, 1e4])
@cases_where(lambda case: case.masks)
def test_all_but_one_token_masked_gives_finite_results(case, scale, dtype):
    module = build(case, dtype=dtype)
    x = tokens_of(module).to(dtype) * scale
    keep = (torch.arange(x.shape[1]) == 2).expand(2, -1)
    for kind in KINDS:
        assert_finite(module, x, attn_mask=mask_over_keys(keep, kind, dtype))
