"""What an exchange takes over from the host, and what it leaves alone."""

import functools

import pytest
import torch
from torch import nn

from fvit.attention import names
from fvit.models import exchange

from .small import SMALL, being_built, finished, head_for, images, meta_host, small_host


def test_exchange_returns_the_model_it_was_given():
    model = small_host()
    former = type(model)
    assert exchange(model, "additive") is model
    assert isinstance(model, former)
    assert type(model).__name__ == former.__name__


def test_exchanging_again_does_not_pile_up_subclasses():
    model = finished("additive")
    once = type(model)
    assert type(exchange(model, "softmax")) is once


# What the new attention takes over from the host


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize("attention", ["additive", "linear", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_new_parameters_have_the_hosts_dtype(make, attention, dtype):
    model = make(attention, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize("attention", ["additive", "linear", "softmax"])
def test_new_parameters_are_on_the_hosts_device(attention):
    model = exchange(meta_host("vit_tiny_patch16_224", **SMALL), attention)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.device.type for p in finished(attention).parameters()} == {"cpu"}


def test_device_and_dtype_survive_a_mechanism_without_parameters():
    host = meta_host("vit_tiny_patch16_224", **SMALL, global_pool="avg", dtype=torch.float64)
    model = exchange(exchange(host, "identity"), "additive")
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize("attention", ["additive", "linear", "softmax"])
def test_initialised_as_timm_initialises(make, attention):
    torch.manual_seed(0)
    model = make(attention, embed_dim=192)
    for block in model.blocks:
        assert list(block.attn.parameters())
        for name, parameter in block.attn.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any()
            else:
                assert parameter.detach().std() == pytest.approx(0.02, rel=0.15)
                assert parameter.detach().mean() == pytest.approx(0, abs=0.005)


def test_initialised_in_the_hosts_own_mode():
    """`weight_init=jax` draws Xavier-uniform: here σ = 1/√192 and a bound at √3 σ."""
    torch.manual_seed(0)
    weight = finished("additive", embed_dim=192, weight_init="jax").blocks[0].attn.q.weight.detach()
    assert weight.std() == pytest.approx(192**-0.5, rel=0.05)
    assert weight.abs().max() <= (3 / 192) ** 0.5


def test_all_but_the_attention_is_untouched():
    model = small_host()
    before = {name: t.clone() for name, t in model.state_dict().items() if ".attn." not in name}
    exchange(model, "additive")
    after = {name: t for name, t in model.state_dict().items() if ".attn." not in name}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_blocks_not_chosen_keep_their_attention():
    model = small_host()
    kept = model.blocks[1].attn
    exchange(model, "additive", blocks=[0, 2])
    assert model.blocks[1].attn is kept


ROUND_TRIP = ["additive", "softmax", "identity", "additive", "linear", "softmax"]


def test_exchanging_over_and_over_keeps_what_the_host_asked_for():
    model = small_host(global_pool="avg", num_heads=4, qkv_bias=False, attn_drop_rate=0.1, proj_drop_rate=0.2)
    for name in ROUND_TRIP:
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
    attn = finished("softmax", qk_norm=True, proj_bias=False).blocks[0].attn
    assert isinstance(attn.q_norm, nn.LayerNorm)
    assert attn.proj.bias is None


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_kept(training):
    model = small_host(attn_drop_rate=0.1, proj_drop_rate=0.1).train(training)
    exchange(model, ["additive", "softmax", "linear"])
    assert {module.training for module in model.modules()} == {training}


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize("attention", names())
def test_all_parameters_receive_gradients(make, attention):
    model = make(attention, **head_for(attention))
    model(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# Softmax in the place of timm's own


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", dict(qk_norm=True)),
        ("vit_tiny_patch16_224", dict(proj_bias=False, qkv_bias=False)),
        ("deit3_small_patch16_224", {}),
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


def test_softmax_keeps_the_eps_of_the_hosts_qk_norm():
    model = small_host(qk_norm=True, norm_layer=functools.partial(nn.LayerNorm, eps=1e-2))
    assert exchange(model, "softmax").blocks[0].attn.q_norm.eps == 1e-2
