"""Weight transfer, from model to model and between attentions."""

import pytest
import torch
from torch import nn

from fvit.models import build, exchange, transfer_weights
from fvit.models.transfer import parameters, transfer_projections

from .small import class_name, host_of, small_host

SEPARATE = {"name": "additive", "value": "separate", "proj": True}

# The old attention, the new one, `keep`, and the projections that are transferred.
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
    """A small ViT with random weights, after an exchange if `attention` is given."""
    model = small_host(**options)
    if attention is not None:
        exchange(model, attention)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def copies(model):
    return [{name: t.clone() for name, t in parameters(block.attn).items()} for block in model.blocks]


@pytest.mark.parametrize(("old", "new", "keep", "kept"), CONVERSIONS)
def test_requested_projections_are_transferred_and_the_others_initialised(old, new, keep, kept):
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
@pytest.mark.parametrize("attention", ["softmax", "linear", "separable", "gated"])
def test_transfer_does_not_change_how_the_others_are_initialised(attention, weight_init):
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
        model = exchange(host_of(kind, embed_dim=192), "softmax", keep=[])
        for index, block in enumerate(model.blocks):
            std = block.attn.mechanism.proj.weight.std().item()
            assert std == pytest.approx(0.02 / (2 * (index + 1)) ** 0.5, rel=0.05)
            assert block.attn.mechanism.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_fix_init_rescales_the_output_projection_or_is_rejected():
    stds = [
        b.attn.proj.weight.std().item() for b in exchange(small_host(embed_dim=192, fix_init=True), "linear").blocks
    ]
    assert stds == pytest.approx([0.02 / 2**0.5, 0.02 / 4**0.5, 0.02 / 6**0.5], rel=0.05)
    with pytest.raises(ValueError, match=f"{class_name('additive')} lacks; build it with fix_init=False"):
        exchange(small_host(fix_init=True), "additive")


def test_a_bias_that_only_the_new_attention_has_is_set_to_zero():
    old, new = {"q.weight": torch.ones(2, 2)}, {"q.weight": torch.zeros(2, 2), "q.bias": torch.ones(2)}
    assert transfer_projections(old, new, ["q"]) == ["q.weight", "q.bias"]
    assert new["q.weight"].all()
    assert not new["q.bias"].any()


def test_rows_of_the_head_follow_the_outputs():
    model = small_host()
    own = model.head.bias.detach().clone() + 7
    model.head.bias.data.copy_(own)
    given = torch.arange(4.0)
    weights = {"head.weight": given[:, None].repeat(1, model.num_features), "head.bias": given}
    assert transfer_weights(model, weights, [3, None, 0, 1, None]).classes == 3
    assert model.head.bias.tolist() == [3, own[1], 0, 1, own[4]]
    assert model.head.weight[[0, 2, 3], 0].tolist() == [3, 0, 1]


def test_biases_that_the_host_lacks_are_zero():
    """BEiT and EVA have no key bias; and a new attention may have biases where the host has none."""
    model = exchange(weighted(None, qkv_bias=False), {"name": "linear", "qkv_bias": True}, keep=["q"])
    found = parameters(model.blocks[0].attn)
    assert not found["q.bias"].any()
    assert "q.bias" in model.exchange_report[0].kept
    model = host_of("beit")
    bias = model.blocks[0].attn.q_bias.clone()
    found = parameters(exchange(model, "softmax", keep=["qkv"]).blocks[0].attn)
    assert torch.equal(found["q.bias"], bias)
    assert not found["k.bias"].any()


def test_bias_that_the_new_attention_lacks_is_reported():
    model = exchange(weighted(None), {"name": "linear", "qkv_bias": False}, keep=["q"])
    assert model.exchange_report[0].kept == ("q.weight",)
    assert "q.bias" in model.exchange_report[0].dropped


@pytest.mark.parametrize(
    ("keep", "kept"),
    [(["q"], "q q_norm"), (["k"], "k k_norm"), (["qkv"], "q k v q_norm k_norm"), (["v", "proj"], "v proj")],
)
def test_norms_of_queries_and_keys_are_transferred_with_them(keep, kept):
    model = weighted(None, qk_norm=True)
    before = copies(model)[0]
    report = exchange(model, "softmax", keep=keep).exchange_report[0]
    assert {name.split(".")[0] for name in report.kept} == set(kept.split())
    now = parameters(model.blocks[0].attn)
    assert all(torch.equal(now[name], before[name]) for name in report.kept)


def test_norms_of_another_width_are_not_transferred():
    model = exchange(weighted(None, qk_norm=True), {"name": "softmax", "num_heads": 2}, keep=["q"])
    report = model.exchange_report[0]
    assert set(report.kept) == {"q.weight", "q.bias"}
    assert {"q_norm.weight", "q_norm.bias"} <= set(report.initialised) & set(report.dropped)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_transferred_weights_have_the_hosts_dtype_and_are_trainable(dtype):
    model = exchange(weighted(None, dtype=dtype), "linear", keep=["qkv", "proj"])
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


def test_transferred_weights_are_copies():
    model = weighted(None)
    old = model.blocks[0].attn
    exchange(model, "linear", keep=["qkv", "proj"])
    nn.init.zeros_(old.qkv.weight)
    assert model.blocks[0].attn.qkv.weight.any()


def test_unknown_name_is_rejected_with_the_known_ones():
    model = weighted(None)
    with pytest.raises(ValueError, match="keep has no 'qvk'; it takes: qkv, q, k, v, proj"):
        exchange(model, "linear", keep=["qkv", "qvk"])
    assert type(model.blocks[0].attn).__name__ == "Attention"


def test_keep_may_be_a_single_name():
    assert exchange(weighted(None), "linear", keep="proj").exchange_report[0].kept == ("proj.weight", "proj.bias")


@pytest.mark.parametrize(
    ("old", "new", "keep", "message"),
    [
        (None, "identity", ["qkv", "proj"], "Attention has q, k, v, proj, and {identity} has no projection"),
        (None, "additive", ["proj"], "{additive} has q, k"),
        (None, "separable", ["q"], "{separable} has k, v, proj"),
        ("additive", "linear", ["v", "proj"], "{additive} has q, k, and {linear} has q, k, v, proj"),
    ],
)
def test_keep_of_which_nothing_can_be_transferred_is_rejected(old, new, keep, message):
    model = weighted(old, global_pool="avg")
    attn = model.blocks[0].attn
    classes = {name: class_name(name) for name in ("identity", "additive", "separable", "linear")}
    with pytest.raises(ValueError, match=message.format(**classes)):
        exchange(model, new, keep=keep)
    assert model.blocks[0].attn is attn


def test_transfer_in_one_of_several_blocks_is_enough():
    model = exchange(weighted(None), ["identity", "linear", "additive"], keep=["v"])
    assert [bool(report.kept) for report in model.exchange_report] == [False, True, False]


def test_keep_without_blocks_to_exchange_is_rejected():
    with pytest.raises(ValueError, match=r"keep=\['qkv'\] has no effect where no block is exchanged"):
        exchange(weighted(None), "linear", blocks=[], keep=["qkv"])


# From model to model

SHAPE = {"name": "vit_tiny_patch16_224", "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3}


def small(attention="softmax", num_classes=10):
    return build(**SHAPE, num_classes=num_classes, attention=attention)


def test_all_weights_of_the_same_shape_are_loaded():
    source, model = small().state_dict(), small("linear")
    outcome = transfer_weights(model, source)
    assert (sorted(outcome.loaded), outcome.initialised, outcome.unused) == (sorted(source), [], [])
    assert all(torch.equal(weight, source[name]) for name, weight in model.state_dict().items())
    assert str(outcome) == f"{len(source)} of {len(source)} weights loaded"


def test_another_attention_and_another_head_keep_their_initialisation():
    source, model = small().state_dict(), small("additive", num_classes=7)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    outcome = transfer_weights(model, source)
    for name, weight in model.state_dict().items():
        own = ".attn." in name or name.startswith("head.")
        assert (name in outcome.initialised) == own
        assert torch.equal(weight, before[name] if own else source[name])
    assert set(outcome.unused) == {name for name in source if ".attn." in name or name.startswith("head.")}
    assert str(outcome).count("blocks.*.attn.q.weight") == 1
    assert "unused: blocks.*.attn.qkv.weight" in str(outcome)


def test_weights_of_which_none_matches_are_rejected():
    with pytest.raises(
        ValueError, match=r"none of the 2 weights matches .* given: fc\.weight, head\.weight; the model's:"
    ):
        transfer_weights(small(), {"fc.weight": torch.zeros(3, 3), "head.weight": torch.zeros(1000, 24)})


def test_weights_are_loaded_before_an_exchange_which_may_keep_some():
    source = small("softmax").state_dict()
    model = build(**SHAPE, num_classes=10, attention="additive", keep=["q"], weights=source)
    assert torch.equal(model.blocks[1].attn.q.weight, source["blocks.1.attn.qkv.weight"][:24])
    assert not torch.equal(model.blocks[1].attn.k.weight, source["blocks.1.attn.qkv.weight"][24:48])
    assert torch.equal(model.head.weight, source["head.weight"])
    assert not model.weight_transfer.initialised


def test_weights_of_an_exchanged_model_are_loaded_after_the_exchange():
    source = small("additive").state_dict()
    model = build(**SHAPE, num_classes=10, attention="additive", weights=source)
    assert all(torch.equal(weight, source[name]) for name, weight in model.state_dict().items())
    with pytest.raises(ValueError, match=r"keep=.* has no effect"):
        build(**SHAPE, num_classes=10, attention="additive", keep=["q"], weights=source)
