"""What every constructor accepts, refuses and shows, and what dropout does."""

import inspect
import re

import pytest
import torch
from torch import nn

from fvit.attention import get

from .suite import HEADS, WIDTH, build, cases_where, every_case, every_key, prefix_of, tokens_of

RATES = ("attn_drop", "proj_drop")


@every_key
@pytest.mark.parametrize(("width", "heads"), [(30, 4), (64, 5), (7, 3), (16, 0)])
def test_indivisible_width_is_refused_with_fitting_head_counts(key, width, heads):
    with pytest.raises(ValueError, match=f"width {width} is not divisible by {heads} heads") as error:
        get(key)(width, heads)
    offered = re.search(r"num_heads=([\d or]+)", str(error.value))[1]
    assert all(width % int(count) == 0 for count in re.findall(r"\d+", offered))


@every_key
@pytest.mark.parametrize(("option", "asked"), [("qk_norm", True), ("scale_norm", True), ("proj_bias", False)])
def test_host_option_is_honoured_or_refused(key, option, asked):
    if option in inspect.signature(get(key)).parameters:
        plain, special = get(key)(WIDTH, HEADS), get(key)(WIDTH, HEADS, **{option: asked})
        assert plain.state_dict().keys() != special.state_dict().keys()
    else:
        with pytest.raises(ValueError, match=f"cannot honour {option}={asked}"):
            get(key)(WIDTH, HEADS, **{option: asked})


@every_key
def test_neutral_host_options_are_accepted(key):
    get(key)(WIDTH, HEADS, qk_norm=False, scale_norm=False, proj_bias=True, norm_layer=nn.LayerNorm)


@every_key
def test_unknown_option_is_refused(key):
    with pytest.raises((TypeError, ValueError)):
        get(key)(WIDTH, HEADS, nonsense=1)


@pytest.mark.parametrize("value", [-0.1, 1.5])
@pytest.mark.parametrize("option", RATES)
@every_key
def test_dropout_outside_its_range_is_refused(key, option, value):
    with pytest.raises(ValueError, match="drop"):
        get(key)(WIDTH, HEADS, **{option: value})


@every_case
@pytest.mark.parametrize("option", RATES)
def test_dropout_acts_in_training_alone(case, option):
    plain, dropping = build(case), build(case, **{option: 0.5})
    x = tokens_of(plain)
    expected = plain.eval()(x)
    assert torch.equal(dropping.eval()(x), expected)
    dropping.train()
    first, second = dropping(x), dropping(x)
    acts = option in case.dropouts
    assert torch.equal(first, expected) is not acts
    assert torch.equal(first, second) is not acts


@cases_where(lambda case: "proj_drop" in case.dropouts)
def test_proj_drop_zeroes_elements_and_scales_the_rest(case):
    plain, dropping = build(case), build(case, proj_drop=0.5)
    x = tokens_of(plain)
    out = dropping(x)
    assert 0.3 < (out == 0).double().mean() < 0.7
    torch.testing.assert_close(out[out != 0], 2 * plain(x)[out != 0])


@every_case
def test_is_deterministic_in_eval(case):
    module = build(case, attn_drop=0.5, proj_drop=0.5).eval()
    x = tokens_of(module)
    assert torch.equal(module(x), module(x))


@every_case
def test_every_parameter_has_a_gradient(case):
    """DDP stops a run whose parameters take no part in the loss."""
    module = build(case).train()
    module(tokens_of(module).requires_grad_()).square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@every_case
def test_remembers_its_layout(case):
    module = build(case)
    assert (module.grid_size, module.num_prefix_tokens) == (case.grids[0], prefix_of(case))


@every_case
def test_shows_width_and_heads_when_printed(case):
    assert "dim=16, num_heads=4" in repr(build(case))
