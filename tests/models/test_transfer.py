"""Which weights an exchange carries over, into what, and what becomes of the others."""

import pytest
import torch
from torch import nn

from fvit.attention import get, names
from fvit.models import exchange
from fvit.models.transfer import available, parameters

from .small import host_of, small_host

SEPARATE = {"name": "additive", "value": "separate", "proj": True}

# The old attention, the new one, what is asked for, and which projections are kept of it.
CONVERSIONS = [
    (None, "softmax", ["qkv", "proj"], "q k v proj"),
    (None, "linear", ["qkv"], "q k v"),
    (None, "linear", ["q", "v"], "q v"),
    (None, "linear", ["k", "qkv", "k"], "q k v"),
    (None, "linear", ["proj"], "proj"),
    (None, "linear", [], ""),
    (None, "additive", ["qkv"], "q k"),
    (None, "additive", ["qkv", "proj"], "q k"),
    (None, SEPARATE, ["qkv", "proj"], "q k v proj"),
    (None, "swiftformer", ["qkv", "proj"], "q k proj"),
    (None, "separable", ["qkv", "proj"], "k v proj"),
    (None, "differential", ["qkv", "proj"], "q k v proj"),
    ("additive", "softmax", ["qkv"], "q k"),
    ("additive", "separable", ["k"], "k"),
    ("additive", "additive", ["qkv"], "q k"),
    (SEPARATE, "softmax", ["qkv", "proj"], "q k v proj"),
    ("separable", "linear", ["qkv", "proj"], "k v proj"),
    ("separable", SEPARATE, ["qkv"], "k v"),
    ("linear", "relu", ["qkv", "proj"], "q k v proj"),
]


def weighted(attention, **options):
    """A small ViT with random weights in its attention, exchanged before if `attention` is given."""
    model = small_host(**options)
    if attention is not None:
        exchange(model, attention)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def copies(model):
    return [{name: t.clone() for name, t in parameters(block.attn).items()} for block in model.blocks]


@pytest.mark.parametrize(("old", "new", "keep", "kept"), CONVERSIONS)
def test_kept_weights_are_the_old_ones_and_the_others_are_drawn_anew(old, new, keep, kept):
    model = weighted(old)
    before = copies(model)
    exchange(model, new, keep=keep)
    expected = {f"{part}.{kind}" for part in kept.split() for kind in ("weight", "bias")}
    for report, was in zip(model.exchange_report, before, strict=True):
        now = parameters(model.blocks[report.block].attn)
        assert set(report.kept) == expected
        assert set(report.initialised) == now.keys() - expected
        assert set(report.dropped) == was.keys() - expected
        assert all(torch.equal(now[name], was[name]) for name in report.kept)
        assert not any(name in was and torch.equal(now[name], was[name]) for name in report.initialised)


@pytest.mark.parametrize("weight_init", ["", "jax"])
@pytest.mark.parametrize("attention", [name for name in names() if "v" in available(parameters(get(name)(24, 3)))])
def test_what_is_not_kept_is_drawn_as_without_keeping(attention, weight_init):
    drawn = []
    for keep in ([], ["v"]):
        model = weighted(None, weight_init=weight_init)
        torch.manual_seed(1)
        drawn.append(copies(exchange(model, attention, keep=keep)))
    for report, without, kept in zip(model.exchange_report, *drawn, strict=True):
        assert report.initialised
        assert all(torch.equal(without[name], kept[name]) for name in report.initialised)
        assert not torch.equal(without["v.weight"], kept["v.weight"])


def test_beit_and_eva_rescale_the_output_projection_by_depth():
    for kind in ("beit", "eva02"):
        model = exchange(host_of(kind, embed_dim=192), "softmax")
        for index, block in enumerate(model.blocks):
            std = block.attn.mechanism.proj.weight.std().item()
            assert std == pytest.approx(0.02 / (2 * (index + 1)) ** 0.5, rel=0.05)
            assert block.attn.mechanism.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_fix_init_rescales_the_output_projection_or_is_refused():
    stds = [
        b.attn.proj.weight.std().item() for b in exchange(small_host(embed_dim=192, fix_init=True), "linear").blocks
    ]
    assert stds == pytest.approx([0.02 / 2**0.5, 0.02 / 4**0.5, 0.02 / 6**0.5], rel=0.05)
    with pytest.raises(ValueError, match="AdditiveAttention lacks; build it with fix_init=False"):
        exchange(small_host(fix_init=True), "additive")


def test_biases_that_the_host_does_not_have_are_zero():
    """BEiT and EVA have none for the keys, and here the new attention has one at all where the old one has none."""
    model = exchange(weighted(None, qkv_bias=False), {"name": "linear", "qkv_bias": True}, keep=["q"])
    found = parameters(model.blocks[0].attn)
    assert not found["q.bias"].any()
    assert "q.bias" in model.exchange_report[0].kept
    model = host_of("beit")
    bias = model.blocks[0].attn.q_bias.clone()
    found = parameters(exchange(model, "softmax", keep=["qkv"]).blocks[0].attn)
    assert torch.equal(found["q.bias"], bias)
    assert not found["k.bias"].any()


def test_a_bias_for_which_there_is_no_place_is_reported():
    model = exchange(weighted(None), {"name": "linear", "qkv_bias": False}, keep=["q"])
    assert model.exchange_report[0].kept == ("q.weight",)
    assert "q.bias" in model.exchange_report[0].dropped


@pytest.mark.parametrize(
    ("keep", "kept"),
    [(["q"], "q q_norm"), (["k"], "k k_norm"), (["qkv"], "q k v q_norm k_norm"), (["v", "proj"], "v proj")],
)
def test_norms_of_queries_and_keys_go_with_them(keep, kept):
    model = weighted(None, qk_norm=True)
    before = copies(model)[0]
    report = exchange(model, "softmax", keep=keep).exchange_report[0]
    assert {name.split(".")[0] for name in report.kept} == set(kept.split())
    now = parameters(model.blocks[0].attn)
    assert all(torch.equal(now[name], before[name]) for name in report.kept)


def test_norms_of_another_width_stay_behind():
    model = exchange(weighted(None, qk_norm=True), {"name": "softmax", "num_heads": 2}, keep=["q"])
    report = model.exchange_report[0]
    assert set(report.kept) == {"q.weight", "q.bias"}
    assert {"q_norm.weight", "q_norm.bias"} <= set(report.initialised) & set(report.dropped)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_kept_weights_keep_their_dtype_and_can_be_trained(dtype):
    model = exchange(weighted(None, dtype=dtype), "linear", keep=["qkv", "proj"])
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


def test_kept_weights_are_copies():
    model = weighted(None)
    old = model.blocks[0].attn
    exchange(model, "linear", keep=["qkv", "proj"])
    nn.init.zeros_(old.qkv.weight)
    assert model.blocks[0].attn.qkv.weight.any()


@pytest.mark.parametrize("name", ["qvk", "projection"])
def test_an_unknown_name_is_refused_with_all_names(name):
    model = weighted(None)
    with pytest.raises(ValueError, match=f"keep has no '{name}'; it takes: qkv, q, k, v, proj"):
        exchange(model, "linear", keep=["qkv", name])
    assert type(model.blocks[0].attn).__name__ == "Attention"


def test_one_name_may_stand_alone():
    assert exchange(weighted(None), "linear", keep="proj").exchange_report[0].kept == ("proj.weight", "proj.bias")


@pytest.mark.parametrize(
    ("old", "new", "keep", "message"),
    [
        (None, "identity", ["qkv", "proj"], "Attention has q, k, v, proj, and IdentityMixer has no projection"),
        (None, "additive", ["proj"], "AdditiveAttention has q, k"),
        (None, "separable", ["q"], "SeparableAttention has k, v, proj"),
        ("additive", "linear", ["v", "proj"], "AdditiveAttention has q, k, and LinearAttention has q, k, v, proj"),
    ],
)
def test_where_nothing_can_be_kept_the_mechanism_is_told(old, new, keep, message):
    model = weighted(old, global_pool="avg")
    attn = model.blocks[0].attn
    with pytest.raises(ValueError, match=message):
        exchange(model, new, keep=keep)
    assert model.blocks[0].attn is attn


def test_what_one_block_of_several_can_keep_is_enough():
    model = exchange(weighted(None), ["identity", "linear", "additive"], keep=["v"])
    assert [bool(report.kept) for report in model.exchange_report] == [False, True, False]


def test_keeping_where_nothing_is_exchanged_is_refused():
    with pytest.raises(ValueError, match=r"keep=\['qkv'\] has no effect where no block is exchanged"):
        exchange(weighted(None), "linear", blocks=[], keep=["qkv"])
