import copy
import functools
import pickle

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from torch import nn

from fvit.attention import Additive, Identity, Linear, Mechanism, Softmax, get, names
from fvit.models import exchange, expand

SMALL = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)


def small_host(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    return timm.create_model(name, **{**SMALL, **options}).eval()


def being_built(attention, **options):
    return timm.create_model("fvit_tiny_patch16_224", **{**SMALL, **options}, attention=attention)


def finished(attention, **options):
    return exchange(small_host(**options), attention)


def meta_host(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


def kinds(model):
    return [type(block.attn).__name__ for block in model.blocks]


def images(*size, batch=2):
    return torch.randn(batch, 3, *(size or (32, 32)), generator=torch.Generator().manual_seed(0))


def head_for(attention):
    """The options of a host whose head sees the image: a mean of patches where the class token does not."""
    return {} if get(attention).reaches_prefix else {"global_pool": "avg"}


class NeedsGrid(Identity):
    needs_grid = True
    reaches_prefix = True


class FixedLength(Identity):
    fixed_length = True
    reaches_prefix = True


class NoPrefix(Identity):
    takes_prefix = False


# What may be given as `attention`, and what it puts into a model of three blocks.
SPECS = {
    "a name": ("additive", ["Additive"] * 3),
    "a class": (Linear, ["Linear"] * 3),
    "a mapping": ({"name": "additive", "logits": "full"}, ["Additive"] * 3),
    "a list of names": (["additive", "softmax", "identity"], ["Additive", "Softmax", "Identity"]),
    "a tuple of names": (("additive", "softmax", "identity"), ["Additive", "Softmax", "Identity"]),
    "counts": (["additive*2", "softmax"], ["Additive", "Additive", "Softmax"]),
    "places": (["fvit.attention.linear:Linear × 2", "softmax"], ["Linear", "Linear", "Softmax"]),
    "counts with ×": (["additive", "softmax×2"], ["Additive", "Softmax", "Softmax"]),
    "counts with spaces": (["additive * 1", " softmax × 2 "], ["Additive", "Softmax", "Softmax"]),
    "a mixture": ([{"name": "linear", "qkv_bias": False}, Softmax, "identity*1"], ["Linear", "Softmax", "Identity"]),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("make", [being_built, finished])
def test_each_form_of_attention(make, spec):
    attention, expected = SPECS[spec]
    model = make(attention)
    assert kinds(model) == expected
    assert model(images()).shape == (2, 5)


@pytest.mark.parametrize("make", [being_built, finished])
def test_twelve_blocks_by_count(make):
    model = make(["additive*8", "softmax×4"], depth=12)
    assert kinds(model) == ["Additive"] * 8 + ["Softmax"] * 4


@pytest.mark.parametrize("make", [being_built, finished])
def test_options_of_a_mapping_reach_the_mechanism(make):
    model = make([{"name": "additive", "logits": "full"}, "additive", {"name": "additive", "value": "separate"}])
    first, second, third = (block.attn for block in model.blocks)
    assert [m.query_logit.shape[1] for m in (first, second, third)] == [24, 8, 8]
    assert [m.v is not None for m in (first, second, third)] == [False, False, True]


def test_a_mapping_is_left_as_it_was():
    spec = {"name": "additive", "logits": "full"}
    finished(spec)
    assert spec == {"name": "additive", "logits": "full"}


@pytest.mark.parametrize(
    ("blocks", "attention", "expected"),
    [
        ([0, 2], "additive", ["Additive", "Attention", "Additive"]),
        ([2, 0], ["linear", "identity"], ["Identity", "Attention", "Linear"]),
        (range(1, 3), ["softmax*2"], ["Attention", "Softmax", "Softmax"]),
        ((i for i in [1]), "additive", ["Attention", "Additive", "Attention"]),
        ([], "additive", ["Attention"] * 3),
    ],
)
def test_only_chosen_blocks(blocks, attention, expected):
    model = exchange(small_host(), attention, blocks=blocks)
    assert kinds(model) == expected
    assert model(images()).shape == (2, 5)


@pytest.mark.parametrize(
    ("attention", "blocks", "message"),
    [
        (["additive", "softmax"], None, "lists 2 blocks and the model has 3"),
        (["additive*4"], None, "lists 4 blocks and the model has 3"),
        ([], None, "lists 0 blocks"),
        (["additive*3"], [0, 1], "lists 3 blocks and the model has 2"),
        ("additive", [3], r"blocks \[3\] do not exist; the model has blocks 0 to 2"),
        ("additive", [-1, 0], r"blocks \[-1\] do not exist"),
        ("addditive", None, "unknown attention 'addditive', did you mean additive"),
        (["additive*2", "sofmax"], None, "unknown attention 'sofmax', did you mean softmax"),
        (["addditive*3"], None, "unknown attention 'addditive', did you mean additive"),
        ({"name": "additive", "logit": "full"}, None, "no option 'logit', did you mean logits"),
        ({"name": "softmax", "logits": "full"}, None, "Softmax has no option 'logits'"),
        ({"name": "additive", "logits": "nonsense"}, None, "logits='nonsense' is none of per_head, full"),
        ({"name": "additive", "num_heads": 5}, None, "not divisible by 5 heads"),
        ({"logits": "full"}, None, "has no name; write name=additive"),
    ],
)
def test_wrong_spec_is_refused_and_leaves_the_model_alone(attention, blocks, message):
    model = small_host()
    with pytest.raises(ValueError, match=message):
        exchange(model, attention, blocks=blocks)
    assert kinds(model) == ["Attention"] * 3


@pytest.mark.parametrize("attention", [nn.Identity, [1, 2, 3], None], ids=str)
def test_what_is_no_spec_at_all_is_refused(attention):
    with pytest.raises(ValueError, match="attention"):
        exchange(small_host(), attention)


def test_a_refusal_of_one_block_leaves_the_others_alone():
    model = small_host()
    with pytest.raises(ValueError, match="NoPrefix"):
        exchange(model, ["additive", "additive", NoPrefix])
    assert kinds(model) == ["Attention"] * 3


def test_expand_gives_one_class_a_block():
    assert expand("softmax", 2) == [Softmax, Softmax]
    assert expand(["additive*2", Linear], 3) == [Additive, Additive, Linear]


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


# Hosts


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",
        "flexivit_small",
        "vit_base_patch32_clip_224",
        "vit_base_patch16_siglip_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_little_patch16_reg4_gap_256",
        "vit_medium_patch16_gap_240",
        "vit_tiny_r_s16_p8_224",
        "test_vit",
    ],
)
def test_named_host_is_accepted(name):
    model = meta_host(name)
    with torch.device("meta"):
        exchange(model, "softmax")
    assert set(kinds(model)) == {"Softmax"}
    out = model.eval()(torch.empty(1, 3, *model.patch_embed.img_size, device="meta"))
    assert (out[0] if isinstance(out, tuple) else out).shape == (1, model.num_classes or model.num_features)


@pytest.mark.parametrize(
    "name",
    [
        "swin_tiny_patch4_window7_224",
        "beit_base_patch16_224",
        "eva02_tiny_patch14_224",
        "vit_small_patch16_dinov3",
        "cait_xxs24_224",
        "vit_relpos_small_patch16_224",
        "vit_base_patch16_xp_224",
        "vit_small_patch16_18x2_224",
        "vit_dwee_patch16_reg1_gap_256",
        "convnext_atto",
        "naflexvit_base_patch16_gap",
    ],
)
def test_other_model_is_refused_with_what_fits(name):
    model = meta_host(name)
    with pytest.raises(ValueError, match=r"hosts are timm's VisionTransformers"):
        exchange(model, "additive")


@pytest.mark.parametrize("make", [being_built, finished])
def test_parallel_scaling_blocks_are_refused(make):
    """timm ignores `attn_layer` there without a word."""
    with pytest.raises(ValueError, match="ParallelScalingBlock"):
        make("additive", block_fn=ParallelScalingBlock)


def test_what_is_no_timm_model_is_refused():
    with pytest.raises(ValueError, match="Linear has no exchangeable attention; hosts are"):
        exchange(nn.Linear(2, 2), "additive")


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize(
    ("options", "attention", "message"),
    [
        (dict(qk_norm=True), "additive", "cannot honour qk_norm=True"),
        (dict(proj_bias=False), "additive", "cannot honour proj_bias=False"),
        (dict(scale_attn_norm=True), "softmax", "cannot honour scale_norm=True"),
        (dict(qk_norm=True), "linear", "cannot honour qk_norm=True"),
    ],
)
def test_option_of_the_host_that_a_mechanism_lacks_is_refused(make, options, attention, message):
    with pytest.raises(ValueError, match=message):
        make(attention, **options)


def test_refusal_does_not_recommend_what_would_be_refused_as_well():
    with pytest.raises(ValueError, match="scale_norm") as error:
        finished("softmax", scale_attn_norm=True)
    assert "attention=softmax" not in str(error.value)


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize(
    ("attention", "options", "remedy"),
    [
        (NeedsGrid, dict(dynamic_img_size=True), "dynamic_img_size=False"),
        (FixedLength, dict(dynamic_img_size=True), "dynamic_img_size=False"),
        (NeedsGrid, dict(patch_drop_rate=0.5), "patch_drop_rate=0"),
        (FixedLength, dict(patch_drop_rate=0.5), "patch_drop_rate=0"),
        (NoPrefix, dict(), "class_token=False"),
        (NoPrefix, dict(class_token=False, global_pool="avg", reg_tokens=2), "reg_tokens=0"),
    ],
)
def test_host_that_cannot_serve_a_mechanism_is_refused_with_the_remedy(make, attention, options, remedy):
    with pytest.raises(ValueError, match=remedy):
        make(attention, **options)


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize(
    ("attention", "options"),
    [
        (NeedsGrid, dict()),
        (FixedLength, dict()),
        (NoPrefix, dict(class_token=False, global_pool="avg")),
        ("additive", dict(dynamic_img_size=True)),
        ("additive", dict(patch_drop_rate=0.5)),
    ],
)
def test_host_that_can_serve_a_mechanism_is_accepted(make, attention, options):
    assert make(attention, **options)(images()).shape == (2, 5)


@pytest.mark.parametrize("make", [being_built, finished])
def test_a_head_on_a_class_token_that_sees_nothing_is_refused_with_the_remedy(make):
    with pytest.raises(ValueError, match=r"Identity and Pool brings nothing .* class_token=False and global_pool=avg"):
        make(["identity", "pool", "pool"])
    assert make(["identity", "pool", "additive"])(images()).shape == (2, 5)
    assert make("pool", global_pool="avg")(images()).shape == (2, 5)
    assert make("identity", class_token=False, global_pool="avg")(images()).shape == (2, 5)


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
    assert (attn.num_heads, attn.qkv.bias, attn.attn_drop, attn.proj_drop.p) == (4, None, 0.1, 0.2)
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


# Copies


@pytest.mark.parametrize("make", [being_built, finished])
def test_deep_copies_are_independent(make):
    model = make("additive").eval()
    before = model(images())
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images()), before)
    twin.set_input_size((32, 64))
    assert twin.blocks[0].attn.grid_size == (4, 8)
    assert model.blocks[0].attn.grid_size == (4, 4)
    exchange(twin, "linear")
    assert kinds(model) == ["Additive"] * 3
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize("make", [being_built, finished])
def test_models_can_be_pickled(make):
    model = make("additive").eval()
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(twin(images()), model(images()))


# Layout


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize(
    ("options", "prefix"),
    [(dict(), 1), (dict(reg_tokens=4), 5), (dict(class_token=False, global_pool="avg"), 0)],
)
def test_mechanisms_are_told_grid_and_prefix_tokens(make, options, prefix):
    model = make(["additive", NeedsGrid, "softmax"] if prefix else NoPrefix, img_size=(32, 48), **options)
    assert [(b.attn.grid_size, b.attn.num_prefix_tokens) for b in model.blocks] == [((4, 6), prefix)] * 3


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize(
    ("resize", "grid"),
    [
        (dict(img_size=(48, 64)), (6, 8)),
        (dict(patch_size=(16, 16)), (2, 2)),
        (dict(img_size=(64, 32), patch_size=(16, 8)), (4, 4)),
    ],
)
def test_mechanisms_are_told_again_after_set_input_size(make, resize, grid):
    model = make(["additive", NeedsGrid, "softmax"])
    model.set_input_size(**resize)
    assert [(b.attn.grid_size, b.attn.num_prefix_tokens) for b in model.blocks] == [(grid, 1)] * 3


def test_mechanisms_are_told_where_only_some_blocks_are_exchanged():
    model = exchange(small_host(), NeedsGrid, blocks=[1])
    model.set_input_size((32, 64))
    assert model.blocks[1].attn.grid_size == (4, 8)


def test_the_layout_is_told_before_the_first_forward_and_once_a_change():
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


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize("attention", names())
def test_forward_after_set_input_size(make, attention):
    model = make(attention, **head_for(attention))
    model.set_input_size((32, 56))
    assert model(images(32, 56)).shape == (2, 5)
