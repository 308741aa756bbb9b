"""What holds for every mechanism. A new one joins by its name; the tables say where mechanisms may differ."""

import re

import pytest
import torch

from fvit.attention import get, names

from .references import randomise

GRID, PREFIX_TOKENS = (2, 3), 1
TOKENS = PREFIX_TOKENS + GRID[0] * GRID[1]
WIDTH, HEADS = 16, 4

PERMUTATION_EQUIVARIANT = ("additive", "identity", "linear", "softmax")
MASK_OVER_KEYS = ("additive", "identity", "linear", "softmax")
MASK_BETWEEN_PAIRS = ("identity", "softmax")
CAUSAL = ("identity", "softmax")
HOST_OPTIONS = {"linear": ("proj_bias",), "softmax": ("qk_norm", "proj_bias")}

every_mechanism = pytest.mark.parametrize("name", names())


def build(name, std=0.5, dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    module = get(name)(WIDTH, HEADS, dtype=dtype, **options)
    module.set_layout(GRID, PREFIX_TOKENS)
    return randomise(module, std) if std else module


def tokens(batch=2, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, TOKENS, WIDTH, generator=generator, dtype=torch.float64).to(dtype)


def mask_over_keys(keep, kind, dtype):
    """`keep` [B, N] as a mask [B, 1, 1, N] of one of the kinds that are in use."""
    keep = keep[:, None, None]
    if kind == "bool":
        return keep
    filling = float("-inf") if kind == "-inf" else torch.finfo(dtype).min
    return torch.zeros(keep.shape, dtype=dtype).masked_fill(~keep, filling)


@every_mechanism
def test_keeps_the_shape(name):
    assert build(name)(tokens()).shape == (2, TOKENS, WIDTH)


@pytest.mark.parametrize("name", PERMUTATION_EQUIVARIANT)
def test_permutation_equivariant(name):
    module, x = build(name), tokens()
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order], rtol=1e-10, atol=1e-10)


@every_mechanism
def test_images_of_a_batch_are_independent(name):
    module, x = build(name), tokens(batch=3)
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]), rtol=1e-10, atol=1e-10)
    others = x.clone()
    others[[0, 2]] = tokens(seed=2)
    torch.testing.assert_close(module(others)[1], module(x)[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("valid", [(TOKENS - 2, TOKENS - 3), (1, TOKENS)])
@pytest.mark.parametrize("kind", ["bool", "-inf", "finfo.min"])
@pytest.mark.parametrize("name", MASK_OVER_KEYS)
def test_masked_tokens_are_as_if_absent(name, kind, valid):
    module, x = build(name), tokens()
    keep = torch.arange(TOKENS) < torch.tensor(valid)[:, None]
    out = module(x, attn_mask=mask_over_keys(keep, kind, x.dtype))
    for image, length in enumerate(valid):
        alone = module(x[image : image + 1, :length])[0]
        torch.testing.assert_close(out[image, :length], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["bool", "-inf", "finfo.min"])
@pytest.mark.parametrize("name", MASK_OVER_KEYS)
def test_garbage_in_masked_tokens_has_no_influence(name, kind, dtype):
    module, x = build(name, dtype=dtype), tokens(dtype=dtype)
    keep = (torch.arange(TOKENS) < TOKENS - 2).expand(2, -1)
    mask = mask_over_keys(keep, kind, dtype)
    results = []
    for garbage in (0.0, 1e4):
        module.zero_grad()
        padded = x.masked_fill(~keep.unsqueeze(-1), garbage).requires_grad_()
        valid = module(padded, attn_mask=mask)[keep]
        valid.float().square().sum().backward()
        gradients = {n: p.grad.clone() for n, p in module.named_parameters()}
        assert all(g.isfinite().all() for g in [padded.grad, *gradients.values()])
        assert not padded.grad[~keep].any()
        results.append({"out": valid.detach(), "d x": padded.grad, **gradients})
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", sorted(set(MASK_OVER_KEYS) - {"identity"}))
def test_a_mask_over_keys_changes_something(name):
    module, x = build(name), tokens()
    keep = (torch.arange(TOKENS) < TOKENS - 2).expand(2, -1)
    assert not torch.allclose(module(x, attn_mask=mask_over_keys(keep, "bool", x.dtype)), module(x))


@every_mechanism
def test_mask_between_pairs_is_honoured_or_refused(name):
    module, x = build(name), tokens()
    mask = torch.ones(2, 1, TOKENS, TOKENS, dtype=torch.bool).tril()
    if name in MASK_BETWEEN_PAIRS:
        torch.testing.assert_close(module(x, attn_mask=mask)[:, :1], module(x[:, :1]), rtol=1e-10, atol=1e-10)
    else:
        with pytest.raises(ValueError, match="attention=softmax"):
            module(x, attn_mask=mask)


@every_mechanism
def test_mask_per_head_is_honoured_or_refused(name):
    module, x = build(name), tokens()
    mask = torch.ones(2, HEADS, 1, TOKENS, dtype=torch.bool)
    if name in MASK_BETWEEN_PAIRS:
        torch.testing.assert_close(module(x, attn_mask=mask), module(x), rtol=1e-10, atol=1e-10)
    else:
        with pytest.raises(ValueError, match="attention=softmax"):
            module(x, attn_mask=mask)


@every_mechanism
def test_causality_is_honoured_or_refused(name):
    module, x = build(name), tokens()
    if name in CAUSAL:
        torch.testing.assert_close(module(x, is_causal=True)[:, :1], module(x[:, :1]), rtol=1e-10, atol=1e-10)
    else:
        with pytest.raises(ValueError, match="attention=softmax"):
            module(x, is_causal=True)


@every_mechanism
@pytest.mark.parametrize(("width", "heads"), [(30, 4), (64, 5), (7, 3), (16, 0)])
def test_indivisible_width_is_refused_with_fitting_head_counts(name, width, heads):
    with pytest.raises(ValueError, match=f"width {width} is not divisible by {heads} heads") as error:
        get(name)(width, heads)
    offered = re.search(r"num_heads=([\d or]+)", str(error.value))[1]
    assert all(width % int(count) == 0 for count in re.findall(r"\d+", offered))


@every_mechanism
@pytest.mark.parametrize(("option", "asked"), [("qk_norm", True), ("scale_norm", True), ("proj_bias", False)])
def test_host_option_is_honoured_or_refused(name, option, asked):
    if option in HOST_OPTIONS.get(name, ()):
        plain, special = get(name)(WIDTH, HEADS), get(name)(WIDTH, HEADS, **{option: asked})
        assert plain.state_dict().keys() != special.state_dict().keys()
    else:
        with pytest.raises(ValueError, match=f"cannot honour {option}={asked}"):
            get(name)(WIDTH, HEADS, **{option: asked})


@every_mechanism
def test_neutral_host_options_are_accepted(name):
    get(name)(WIDTH, HEADS, qk_norm=False, scale_norm=False, proj_bias=True, norm_layer=torch.nn.LayerNorm)


@every_mechanism
def test_unknown_option_is_refused(name):
    with pytest.raises((TypeError, ValueError)):
        get(name)(WIDTH, HEADS, nonsense=1)


@pytest.mark.parametrize("value", [-0.1, 1.5])
@pytest.mark.parametrize("option", ["attn_drop", "proj_drop"])
@every_mechanism
def test_dropout_outside_its_range_is_refused(name, option, value):
    with pytest.raises(ValueError, match="drop"):
        get(name)(WIDTH, HEADS, **{option: value})


@every_mechanism
def test_meta_device_gives_meta_parameters(name):
    module = get(name)(WIDTH, HEADS, device="meta")
    module.set_layout(GRID, PREFIX_TOKENS)
    assert {t.device.type for t in module.state_dict().values()} <= {"meta"}
    assert module(torch.empty(2, TOKENS, WIDTH, device="meta")).shape == (2, TOKENS, WIDTH)


@every_mechanism
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_honoured(name, dtype):
    module = build(name, dtype=dtype)
    assert {t.dtype for t in module.state_dict().values()} <= {dtype}
    assert module(tokens(dtype=dtype)).dtype == dtype


@every_mechanism
def test_state_dict_round_trip(name):
    one, other, x = build(name, seed=0), build(name, seed=1), tokens()
    if one.state_dict():
        assert not torch.equal(one(x), other(x))
    other.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(one(x), other(x))


@every_mechanism
def test_gradcheck(name):
    module = build(name)
    x = tokens()[:1, :, :].requires_grad_()
    parameters = dict(module.named_parameters())

    def run(x, *weights):
        return torch.func.functional_call(module, dict(zip(parameters, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters.values()), fast_mode=True)


@every_mechanism
@pytest.mark.parametrize("option", ["attn_drop", "proj_drop"])
def test_dropout_acts_in_training_alone(name, option):
    plain, dropping, x = build(name), build(name, **{option: 0.5}), tokens()
    assert torch.equal(dropping.eval()(x), plain(x))
    dropping.train()
    first, second = dropping(x), dropping(x)
    acts = name != "identity"
    assert torch.equal(first, plain(x)) is not acts
    assert torch.equal(first, second) is not acts


@every_mechanism
def test_proj_drop_zeroes_elements_and_scales_the_rest(name):
    if name == "identity":
        return
    plain, dropping, x = build(name), build(name, proj_drop=0.5), tokens()
    out = dropping(x)
    assert 0.3 < (out == 0).double().mean() < 0.7
    torch.testing.assert_close(out[out != 0], 2 * plain(x)[out != 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["huge", "equal tokens", "zeros", "one token"])
@every_mechanism
def test_extreme_inputs_stay_finite(name, case, dtype):
    module = build(name, std=0, dtype=dtype)
    if case == "one token" and (module.needs_grid or module.fixed_length):
        pytest.skip("tokens are given by the grid")
    x = {
        "huge": 1e4 * tokens(dtype=dtype),
        "equal tokens": torch.ones(2, TOKENS, WIDTH, dtype=dtype),
        "zeros": torch.zeros(2, TOKENS, WIDTH, dtype=dtype),
        "one token": tokens(dtype=dtype)[:, :1],
    }[case].requires_grad_()
    out = module(x)
    out.float().mean().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in [x, *module.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["bool", "-inf", "finfo.min"])
@pytest.mark.parametrize("name", MASK_OVER_KEYS)
def test_all_but_one_token_masked_stays_finite(name, kind, dtype):
    module, x = build(name, dtype=dtype), tokens(dtype=dtype).requires_grad_()
    keep = (torch.arange(TOKENS) == 2).expand(2, -1)
    out = module(x, attn_mask=mask_over_keys(keep, kind, dtype))
    out.float().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in [x, *module.parameters()])


@every_mechanism
def test_remembers_its_layout(name):
    module = build(name)
    assert (module.grid_size, module.num_prefix_tokens) == (GRID, PREFIX_TOKENS)


@every_mechanism
def test_shows_width_and_heads_when_printed(name):
    assert "dim=16, num_heads=4" in repr(build(name))
