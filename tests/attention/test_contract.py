"""What every constructor accepts and refuses, what dropout does, and whether the order of the tokens matters."""

import inspect

import pytest
import torch
from torch import nn

from fvit.attention import Mechanism, Projected, get

from .cases import DEFAULTS
from .suite import HEADS, WIDTH, build, every_default, every_full, tokens_of

KEYS = pytest.mark.parametrize("key", [case.key for case in DEFAULTS])


@pytest.mark.parametrize(
    ("width", "heads", "offered"),
    [(30, 4, "2 or 3 or 5"), (64, 5, "2 or 4 or 8"), (7, 3, "1 or 7"), (16, 0, "1 or 2 or 4")],
)
def test_an_indivisible_width_is_refused_with_the_nearest_head_counts(width, heads, offered):
    with pytest.raises(ValueError, match=rf"width {width} is not divisible by {heads} heads; use num_heads={offered}"):
        Mechanism(width, heads)


@KEYS
def test_every_constructor_checks_its_arguments(key):
    make = get(key)
    with pytest.raises(ValueError, match="width 30 is not divisible by 4 heads"):
        make(30, 4)
    for option, rate in (("attn_drop", -0.1), ("attn_drop", 1.0), ("proj_drop", 1.5)):
        with pytest.raises(ValueError, match=rf"{option}={rate} must be in \[0, 1\)"):
            make(WIDTH, HEADS, **{option: rate})
    with pytest.raises(ValueError, match="has no option nonsense"):
        make(WIDTH, HEADS, nonsense=1)


@KEYS
def test_host_options_are_honoured_or_refused(key):
    make = get(key)
    plain = make(WIDTH, HEADS, qk_norm=False, scale_norm=False, proj_bias=True, norm_layer=nn.LayerNorm)
    for option, asked in (("qk_norm", True), ("scale_norm", True), ("proj_bias", False)):
        if option in inspect.signature(make).parameters:
            special = make(WIDTH, HEADS, **{option: asked})
            assert plain.state_dict().keys() != special.state_dict().keys()
        else:
            with pytest.raises(ValueError, match=f"cannot honour {option}={asked}"):
                make(WIDTH, HEADS, **{option: asked})


@KEYS
def test_the_signature_lists_all_arguments(key):
    """For timm, for messages and for docs/zoo.py, although a constructor passes on most of them."""
    parameters = inspect.signature(get(key)).parameters
    assert list(parameters)[:2] == ["dim", "num_heads"]
    assert list(parameters)[-1] == "host"
    shared = inspect.signature(Projected if issubclass(get(key), Projected) else Mechanism).parameters
    for name in shared:
        assert parameters[name].default == shared[name].default
    module = get(key)(**{name: p.default for name, p in parameters.items() if name not in ("dim", "host")}, dim=WIDTH)
    assert module.num_heads == 8


def test_a_subclass_may_repeat_the_whole_signature_or_inherit_it():
    class Whole(Projected):
        def __init__(self, dim, num_heads=8, qkv_bias=True, attn_drop=0.0, proj_drop=0.0, power=2):
            super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop)

    class Inherited(Whole):
        pass

    for cls in (Whole, Inherited):
        names = ["dim", "num_heads", "qkv_bias", "attn_drop", "proj_drop", "power"]
        assert list(inspect.signature(cls).parameters) == names
        assert cls(8, 2, power=3).num_heads == 2


@every_full
def test_dropout_acts_only_in_training(case):
    plain = build(case).eval()
    x = tokens_of(plain)
    expected = plain(x)
    for option in ("attn_drop", "proj_drop"):
        dropping = build(case, **{option: 0.5})
        assert torch.equal(dropping.eval()(x), expected)
        dropping.train()
        first, second = dropping(x), dropping(x)
        acts = option in case.dropouts
        assert torch.equal(first, expected) is not acts
        assert torch.equal(first, second) is not acts
    if "proj_drop" in case.dropouts:
        assert 0.3 < (first == 0).double().mean() < 0.7
        torch.testing.assert_close(first[first != 0], 2 * expected[first != 0])


@every_full
def test_every_parameter_has_a_gradient(case):
    """DDP fails if a parameter does not contribute to the loss."""
    module = build(case).train()
    module(tokens_of(module).requires_grad_()).square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@every_default
def test_is_permutation_equivariant_or_is_not(case):
    module = build(case)
    x = tokens_of(module)
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))
    permuted, expected = module(x[:, order]), module(x)[:, order]
    if case.equivariant:
        torch.testing.assert_close(permuted, expected, rtol=1e-10, atol=1e-10)
    else:
        assert (permuted - expected).abs().max() > 1e-3 * expected.abs().max()


def test_the_name_width_and_heads_are_printed():
    assert repr(build(DEFAULTS[0])).startswith("AdditiveAttention(\n  dim=16, num_heads=4\n")
    assert repr(get("linear")(8, 2)).startswith("LinearAttention(\n  dim=8, num_heads=2\n")


REFUSED = [
    ("additive", {"logits": "x"}, "additive: logits='x' must be one of per_head, full"),
    ("additive", {"value": "x"}, "additive: value='x' must be one of shared, separate"),
    ("additive", {"form": "x"}, "additive: form='x' must be one of auto, textbook, factored, folded"),
    ("aft_full", {"rank": 0}, "aft_full: rank=0 must be at least 1, or null for a full matrix"),
    ("agent", {"num_agents": 50}, "agent: num_agents=50 must be a square number, such as 49 or 64"),
    ("agent", {"num_agents": 0}, "agent: num_agents=0 must be a square number, such as 1"),
    ("agent", {"num_agents": -4}, "agent: num_agents=-4 must be a square number"),
    ("agent", {"conv": 2}, "AgentAttention: conv=2 has no centre; use an odd width, or 0 for no convolution"),
    ("differential", {"lambda_init": 1.0}, r"differential: lambda_init=1.0 must be in \[0, 1\)"),
    ("differential", {"lambda_init": -0.1}, r"differential: lambda_init=-0.1 must be in \[0, 1\)"),
    ("differential", {"dim": 15, "num_heads": 3}, "3 heads of width 5 can be neither paired nor split in two"),
    ("focused", {"focusing_factor": 0.5}, "focused: focusing_factor=0.5 must be at least 1"),
    ("focused", {"norm": "row"}, "focused: norm='row' must be one of head, token"),
    ("focused", {"conv": 4}, "focused: conv=4 has no centre"),
    ("gla", {"num_heads": 16}, "gla: the width of heads must be even, got 1; use another num_heads"),
    ("gla", {"gate_rank": 0}, "gla: gate_rank=0 must be at least 1"),
    ("gmlp", {"mlp_ratio": 0.01}, "gmlp: mlp_ratio=0.01 gives 0 channels, not two equal halves; use 2 or 6"),
    ("gmlp", {"dim": 5, "num_heads": 1, "mlp_ratio": 1}, "gmlp: mlp_ratio=1 gives 5 channels"),
    ("linformer", {"projected_tokens": 0}, "linformer: projected_tokens=0 must be at least 1"),
    ("mala", {"dim": 24, "rotary": True}, r"multiples of 4, got 6; use num_heads such that dim / num_heads is a"),
    ("mala", {"conv": 2}, "MALA: conv=2 has no centre"),
    ("mhla", {"num_blocks": 15}, "mhla: num_blocks=15 must be a square number, such as 9 or 16"),
    ("mhla", {"num_blocks": 0}, "mhla: num_blocks=0 must be a square number, such as 1"),
    ("mixer", {"mlp_ratio": 0.01}, "mixer: mlp_ratio=0.01 of width 16 gives no hidden units; the paper uses 0.5"),
    ("mlla", {"dim": 6, "num_heads": 2}, "mlla: width 6 must be a multiple of 4"),
    ("mlla", {"conv": 2}, "MLLA: conv=2 has no centre"),
    (
        "nala",
        {"dim": 24, "rotary": True},
        "nala: rotary needs head widths that are multiples of 4, got 6",
    ),
    ("nc_ssd", {"state": 0}, "nc_ssd: state=0 and expand=1 must be at least 1"),
    ("nc_ssd", {"conv": 2}, "nc_ssd: conv=2 has no centre"),
    ("neighborhood", {"window": 4}, "neighborhood: window=4 must be odd and positive, so that it has a centre"),
    ("neighborhood", {"dilation": 0}, "neighborhood: dilation=0 must be at least 1"),
    ("nystrom", {"num_landmarks": 0}, "nystrom: num_landmarks=0 must be at least 1"),
    ("nystrom", {"iterations": -1}, "nystrom: iterations=-1 must not be negative; the paper uses 6"),
    ("nystrom", {"conv": -1}, "nystrom: conv=-1 has no centre"),
    ("performer", {"num_features": 0}, "performer: num_features=0 must be at least 1, or null for d ln d"),
    ("permute_mlp", {"dim": 24, "num_heads": 3, "segments": 7}, "24 is not divisible by 7 .* use segments=4 or 6 or 8"),
    ("permute_mlp", {"segments": 0}, "width 16 is not divisible by 0 segments"),
    ("pola", {"dim": 15, "num_heads": 5}, "pola: the width of heads must be even, got 3; use another num_heads"),
    ("pola", {"alpha": 0.0}, "pola: alpha=0.0 must be positive"),
    ("pola", {"conv": 4}, "pola: conv=4 has no centre"),
    (
        "rala",
        {"dim": 24, "rotary": True},
        "rala: rotary needs head widths that are multiples of 4, got 6",
    ),
    ("relu_linear", {"conv": -1}, "ReLULinearAttention: conv=-1 has no centre"),
    ("relu_linear", {"aggregate": 2}, "relu_linear: aggregate=2 has no centre"),
    ("sep_conv", {"kernel": 4}, "sep_conv: kernel=4 has no centre"),
    ("sep_conv", {"expansion": 0}, "sep_conv: kernel=7 and expansion=0 must be at least 1"),
    ("softmax", {"kv_heads": 3}, "softmax: kv_heads=3 must divide num_heads=4"),
    ("softmax", {"kv_heads": 0}, "softmax: kv_heads=0 must divide num_heads=4"),
    ("softmax", {"dim": 24, "rotary": True}, "softmax: rotary needs head widths that are multiples of 4, got 6"),
    ("swiftformer", {"norm": "l1"}, "swiftformer: norm='l1' must be one of softmax, l2"),
    (
        "synthesizer",
        {"kind": "fixed"},
        "kind='fixed' must be one of dense, factorised_dense, random, fact",
    ),
    ("synthesizer", {"kind": "dense", "rank": 4}, "synthesizer: rank=4 has no effect with kind=dense; use null"),
    ("synthesizer", {"kind": "factorised_random", "rank": 0}, "rank=0 must be at least 1, or null for 8"),
    ("ttt_t5", {"qk_conv": 2}, "ttt_t5: qk_conv=2 has no centre"),
    ("window", {"window": 0}, "window: window=0 must be at least 1"),
]


@pytest.mark.parametrize(("key", "options", "message"), REFUSED)
def test_options_out_of_range_are_refused(key, options, message):
    with pytest.raises(ValueError, match=message):
        get(key)(**{"dim": WIDTH, "num_heads": HEADS, **options})


@pytest.mark.parametrize(
    ("key", "options", "grid", "length"),
    [
        ("agent", {"position_bias": False}, True, False),
        ("agent", {"position_bias": True}, True, True),
        ("focused", {"norm": "token", "scale_channels": True}, False, False),
        ("focused", {"conv": 3}, True, False),
        ("focused", {"position_keys": True}, False, True),
        ("gla", {}, False, False),
        ("gla", {"local": True}, True, False),
        ("inline", {"local": False}, False, False),
        ("inline", {"local": True}, True, False),
        ("mala", {"gate": True}, False, False),
        ("mala", {"conv": 3}, True, False),
        ("mala", {"rotary": True}, True, False),
        ("nala", {"rotary": True}, True, False),
        ("nc_ssd", {}, False, False),
        ("nc_ssd", {"conv": 3}, True, False),
        ("nystrom", {}, False, False),
        ("nystrom", {"conv": 3}, True, False),
        ("pola", {}, False, False),
        ("pola", {"conv": 3}, True, False),
        ("pola", {"position_keys": True}, False, True),
        ("rala", {}, False, False),
        ("rala", {"rotary": True}, True, False),
        ("relu_linear", {}, False, False),
        ("relu_linear", {"conv": 3}, True, False),
        ("relu_linear", {"aggregate": 3}, True, False),
        ("ttt", {}, False, False),
        ("ttt", {"conv_head": True}, True, False),
        ("ttt_t5", {"qk_conv": 3}, True, False),
        ("vrwkv", {}, False, False),
        ("vrwkv", {"shift": True}, True, False),
        ("softmax", {}, False, False),
        ("softmax", {"rotary": True}, True, False),
        ("synthesizer", {"kind": "dense"}, False, True),
        ("synthesizer", {"kind": "factorised_dense"}, True, True),
    ],
)
def test_an_option_brings_its_requirement(key, options, grid, length):
    module = get(key)(WIDTH, HEADS, **options)
    assert (module.needs_grid, module.fixed_length) == (grid, length)
    if grid and not length:
        for layout in (None, ((2, 2), 1), ((3, 2), 0)):
            if layout:
                module.set_layout(*layout)
            with pytest.raises(ValueError, match=r"got 7 tokens, but the layout is \d prefix tokens and a grid of"):
                module(torch.randn(1, 7, WIDTH))
