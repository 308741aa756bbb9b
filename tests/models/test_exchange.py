"""`exchange`: what changes in a model, what stays, what is reported, and when mechanisms are told their layout."""

import copy
import dataclasses
import functools
import pickle

import pytest
import torch
from torch import nn

from fvit.attention import Mechanism, SoftmaxAttention, names
from fvit.models import exchange, exchange_rows
from fvit.models.hosts import sites

from .small import (
    SMALL,
    NeedsGrid,
    NoPrefix,
    being_built,
    both_ways,
    class_name,
    finished,
    head_for,
    host_of,
    images,
    kinds,
    meta_host,
    resampling,
    small_host,
)


def test_exchange_returns_the_same_model_with_a_subclass_of_its_class():
    model = small_host()
    former = type(model)
    assert exchange(model, "additive") is model
    assert isinstance(model, former)
    assert type(model).__name__ == former.__name__
    once = type(model)
    assert type(exchange(model, "softmax")) is once


# What the new attention takes from the host


@both_ways
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_new_parameters_have_the_hosts_dtype(make, dtype):
    model = make(["additive", "linear", "softmax"], dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_new_parameters_are_on_the_hosts_device_even_after_a_mechanism_without_parameters():
    host = meta_host("vit_tiny_patch16_224", **SMALL, global_pool="avg", dtype=torch.float64)
    model = exchange(exchange(host, "identity"), ["additive", "linear", "softmax"])
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}


@both_ways
def test_initialised_as_timm_initialises(make):
    torch.manual_seed(0)
    model = make(["additive", "linear", "softmax"], embed_dim=192)
    for block in model.blocks:
        assert list(block.attn.parameters())
        for name, parameter in block.attn.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any()
            else:
                assert parameter.detach().std() == pytest.approx(0.02, rel=0.15)
                assert parameter.detach().mean() == pytest.approx(0, abs=0.005)


def test_initialised_in_the_hosts_own_mode():
    """`weight_init=jax` draws Xavier-uniform: here σ = 1/√192, bounded by √3 σ."""
    torch.manual_seed(0)
    host = small_host(embed_dim=192, weight_init="jax")
    weight = exchange(host, "additive", keep=[]).blocks[0].attn.q.weight.detach()
    assert weight.std() == pytest.approx(192**-0.5, rel=0.05)
    assert weight.abs().max() <= (3 / 192) ** 0.5


def test_everything_but_the_chosen_attention_is_unchanged():
    model = small_host()
    middle = model.blocks[1].attn
    before = {name: t.clone() for name, t in model.state_dict().items() if ".attn." not in name}
    exchange(model, "additive", blocks=[0, 2])
    after = {name: t for name, t in model.state_dict().items() if ".attn." not in name}
    assert model.blocks[1].attn is middle
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_repeated_exchanges_keep_the_arguments_of_the_host():
    model = small_host(global_pool="avg", num_heads=4, qkv_bias=False, attn_drop_rate=0.1, proj_drop_rate=0.2)
    for name in ("additive", "softmax", "identity", "additive", "linear", "softmax"):
        attn = exchange(model, name).blocks[1].attn
        asked = {key: attn.host_args[key] for key in ("num_heads", "qkv_bias", "attn_drop", "proj_drop")}
        assert asked == dict(num_heads=4, qkv_bias=False, attn_drop=0.1, proj_drop=0.2)
        assert model(images()).shape == (2, 5)
    assert (attn.num_heads, attn.qkv.bias, attn.attn_drop.p, attn.proj_drop.p) == (4, None, 0.1, 0.2)
    attn = exchange(model, "additive").blocks[1].attn
    assert (attn.num_heads, attn.q.bias, attn.attn_drop.p, attn.proj_drop.p) == (4, None, 0.1, 0.2)


def test_options_of_one_mechanism_do_not_stick_to_the_next():
    model = exchange(finished({"name": "additive", "num_heads": 2, "qkv_bias": False}), "softmax")
    attn = model.blocks[0].attn
    assert attn.num_heads == 3
    assert attn.qkv.bias is not None


def test_softmax_keeps_the_hosts_qk_norm_and_proj_bias():
    host = small_host(qk_norm=True, proj_bias=False, norm_layer=functools.partial(nn.LayerNorm, eps=1e-2))
    attn = exchange(host, "softmax").blocks[0].attn
    assert isinstance(attn.q_norm, nn.LayerNorm)
    assert attn.q_norm.eps == 1e-2
    assert attn.proj.bias is None


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_is_kept(training):
    model = small_host(attn_drop_rate=0.1, proj_drop_rate=0.1).train(training)
    exchange(model, ["additive", "softmax", "linear"])
    assert {module.training for module in model.modules()} == {training}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", dict(qk_norm=True)),
        ("vit_tiny_patch16_224", dict(proj_bias=False, qkv_bias=False)),
        ("vit_base_patch16_siglip_224", {}),
        ("vit_small_patch14_reg4_dinov2", {}),
    ],
)
def test_softmax_with_the_hosts_weights_gives_the_hosts_logits(name, options):
    model = small_host(name, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    weights, before = model.state_dict(), model(images())
    exchange(model, "softmax")
    model.load_state_dict(weights, strict=True)
    torch.testing.assert_close(model(images()), before, rtol=1e-5, atol=1e-5)


# Every mechanism in a host


@pytest.mark.parametrize("attention", names())
def test_every_mechanism_trains_and_changes_size_in_a_host(attention):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = being_built(attention, **head_for(attention), dtype=torch.float64).train()
        assert kinds(model) == [attention] * 3
        model.set_grad_checkpointing(checkpointing)
        model(images().double()).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients[0].values())
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    model.set_input_size((32, 56))
    assert model(images(32, 56).double()).shape == (2, 5)


@both_ways
def test_copies_have_a_layout_of_their_own(make):
    model = make("additive").eval()
    for clone in (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))):
        twin = clone(model)
        twin.set_input_size((32, 64))
        assert twin.blocks[0].attn.grid_size == (4, 8)
        assert model.blocks[0].attn.grid_size == (4, 4)
        exchange(twin, "linear")
        assert kinds(model) == ["additive"] * 3


# Layout


@both_ways
@pytest.mark.parametrize(
    ("options", "prefix"), [(dict(), 1), (dict(reg_tokens=4), 5), (dict(class_token=False, global_pool="avg"), 0)]
)
def test_mechanisms_receive_grid_and_prefix_tokens(make, options, prefix):
    model = make(["additive", NeedsGrid, "softmax"] if prefix else NoPrefix, img_size=(32, 48), **options)
    assert [(b.attn.grid_size, b.attn.num_prefix_tokens) for b in model.blocks] == [((4, 6), prefix)] * 3


@both_ways
@pytest.mark.parametrize(
    ("resize", "grid"),
    [
        (dict(img_size=(48, 64)), (6, 8)),
        (dict(patch_size=(16, 16)), (2, 2)),
        (dict(img_size=(64, 32), patch_size=(16, 8)), (4, 4)),
    ],
)
def test_mechanisms_receive_the_new_grid_after_set_input_size(make, resize, grid):
    model = make(["additive", NeedsGrid, "softmax"])
    model.set_input_size(**resize)
    assert [(b.attn.grid_size, b.attn.num_prefix_tokens) for b in model.blocks] == [(grid, 1)] * 3


def test_layout_is_set_before_the_first_forward_and_once_per_change():
    calls = []

    class Listens(Mechanism):
        def set_layout(self, grid_size, num_prefix_tokens, block_index):
            calls.append((grid_size, num_prefix_tokens, block_index))
            super().set_layout(grid_size, num_prefix_tokens, block_index)

        def forward(self, x, attn_mask=None, is_causal=False):
            assert x.shape[1] == self.num_prefix_tokens + self.grid_size[0] * self.grid_size[1]
            return x

    model = exchange(small_host(), Listens, blocks=[1])
    model(images())
    model.set_input_size((16, 32))
    model(images(16, 32))
    assert calls == [((4, 4), 1, 1), ((2, 4), 1, 1)]


class Positions(SoftmaxAttention):
    """Softmax attention that requires a grid."""

    needs_grid = True


FIXED = {"dinov2": dict(dynamic_img_size=False)}
"""Options that fix the grid of a host."""


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("distilled", 2),
        ("dinov2", 5),
        ("beit", 1),
        ("eva02", 1),
        ("relpos", 0),
        ("relpos, class token", 1),
        ("cait", 0),
    ],
)
def test_every_kind_of_host_sets_grid_prefix_and_index(kind, prefix):
    model = exchange(host_of(kind, img_size=(32, 48), **FIXED.get(kind, {})), Positions)
    layouts = [(site.mechanism.grid_size, site.mechanism.num_prefix_tokens) for site in sites(model)]
    assert layouts == [((4, 6), prefix)] * 3
    assert [site.mechanism.block_index for site in sites(model)] == [0, 1, 2]


@resampling
@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        *((kind, Positions) for kind in ("distilled", "dinov2", "beit", "beit, shared bias", "eva02", "relpos")),
        ("relpos, shared", Positions),
        *((kind, "pool") for kind in ("beit", "eva02", "relpos, shared")),
    ],
)
def test_every_kind_of_host_updates_the_grid_after_set_input_size(kind, attention):
    model = exchange(host_of(kind, **FIXED.get(kind, {})), attention)
    model.set_input_size((32, 56))
    assert {site.mechanism.grid_size for site in sites(model)} == {(4, 7)}
    assert model(images(32, 56)).shape == (2, 5)


@resampling
@pytest.mark.parametrize("kind", ["beit", "relpos", "relpos, table", "swin"])
def test_position_bias_is_resampled_as_the_host_does(kind):
    native, model = host_of(kind), exchange(host_of(kind), "softmax", keep=["qkv", "proj"])
    for host in (native, model):
        host.set_input_size((48, 64))
    torch.testing.assert_close(model(images(48, 64)), native(images(48, 64)), rtol=1e-6, atol=1e-6)


@resampling
def test_grid_in_swin_is_the_window():
    model = exchange(host_of("swin"), "softmax")
    assert [(site.mechanism.grid_size, site.index) for site in sites(model)] == [((4, 4), index) for index in range(4)]
    model.set_input_size(img_size=(64, 32), window_size=(8, 4))
    assert [site.mechanism.grid_size for site in sites(model)] == [(8, 4)] * 4
    assert model(images(64, 32)).shape == (2, 5)


# Reports


def test_nothing_is_reported_without_an_exchange():
    assert exchange_rows(small_host()) == []
    assert exchange(small_host(), "linear", blocks=[]).exchange_report == ()


def test_report_is_plain_and_frozen():
    report = exchange(small_host(), "additive", blocks=[1], keep=["q"]).exchange_report[0]
    assert dataclasses.asdict(report) == {
        "block": 1,
        "old": "Attention",
        "new": class_name("additive"),
        "kept": ("q.weight", "q.bias"),
        "initialised": ("k.weight", "k.bias", "query_logit", "key_logit", "transform.weight", "transform.bias"),
        "dropped": ("k.weight", "k.bias", "v.weight", "v.bias", "proj.weight", "proj.bias"),
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.block = 2


def test_the_last_exchange_of_each_block_is_reported():
    additive, linear = map(class_name, ("additive", "linear"))
    model = exchange(small_host(), "linear", blocks="1-2")
    exchange(model, "additive", blocks="0-1")
    assert [(report.block, report.old, report.new) for report in model.exchange_report] == [
        (0, "Attention", additive),
        (1, linear, additive),
        (2, "Attention", linear),
    ]
    assert [report.new for report in being_built("additive").exchange_report] == [additive] * 3


def test_consecutive_blocks_share_a_row():
    model = exchange(small_host(depth=8), "linear", blocks=[0, 1, 3, 4, 5], keep=["qkv", "proj"])
    exchange(model, "additive", blocks="6-7", keep=["q"])
    kept = (f"Attention → {class_name('linear')}", "q, k, v, proj", "–", "–")
    assert exchange_rows(model) == [
        ("0-1", *kept),
        ("3-5", *kept),
        ("6-7", f"Attention → {class_name('additive')}", "q", "k, query_logit, key_logit, transform", "k, v, proj"),
    ]


def test_lost_positions_are_in_the_row():
    assert exchange_rows(exchange(host_of("eva02"), "relu", keep=[]))[0][4] == "q, k, v, proj, rope"
    [row] = exchange_rows(exchange(host_of("beit"), "linear", keep=["qkv", "proj"]))
    assert row[2:] == ("q, k, v, proj", "–", "rel_pos.relative_position_bias_table")
