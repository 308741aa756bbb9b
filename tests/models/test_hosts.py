"""Which hosts are taken, which are refused, and with what remedy."""

import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from torch import nn

from fvit.attention import get, names
from fvit.models import exchange

from .small import (
    FixedLength,
    NeedsGrid,
    NoPrefix,
    being_built,
    finished,
    host_of,
    images,
    kinds,
    meta_host,
    resampling,
)


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
        "swin_tiny_patch4_window7_224",
        "swin_s3_tiny_224",
        "beit_base_patch16_224",
        "beitv2_base_patch16_224",
        "eva02_tiny_patch14_224",
        "vit_small_patch16_dinov3",
        "vit_small_patch16_rope_mixed_224",
        "vit_pe_core_tiny_patch16_384",
        "cait_xxs24_224",
        "vit_relpos_small_patch16_224",
        "vit_srelpos_small_patch16_224",
        "naflexvit_base_patch16_gap",
    ],
)
def test_named_host_is_accepted(name):
    model = meta_host(name)
    with torch.device("meta"):
        exchange(model, "softmax", keep=["qkv", "proj"])
    assert set(kinds(model)) == {"SoftmaxAttention"}
    out = model.eval()(torch.empty(1, 3, *model.default_cfg["input_size"][1:], device="meta"))
    assert (out[0] if isinstance(out, tuple) else out).shape == (1, model.num_classes or model.num_features)


@pytest.mark.parametrize(
    "name",
    [
        "swinv2_tiny_window8_256",
        "vit_base_patch16_xp_224",
        "vit_small_patch16_18x2_224",
        "vit_dwee_patch16_reg1_gap_256",
        "convnext_atto",
        "xcit_nano_12_p16_224",
        "samvit_base_patch16",
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eva02_base_patch16_clip_224", "cannot honour scale_norm=True"),
        ("vit_large_patch16_sapiens2", "block 8 is wider or narrower than its tokens, at k: .* fewer of keys"),
    ],
)
def test_attention_that_computes_something_else_is_refused(name, message):
    model = meta_host(name)
    with pytest.raises(ValueError, match=message):
        exchange(model, "softmax")


@pytest.mark.parametrize("kind", ["vit", "eva"])
def test_gated_attention_is_refused(kind):
    model = host_of(kind)
    model.blocks[1].attn.gate = nn.Linear(24, 24)
    with pytest.raises(ValueError, match="attention of block 1 is gated"):
        exchange(model, "softmax")


def test_shifted_windows_are_refused_to_what_would_ignore_them_with_what_fits():
    model = host_of("swin")
    before = model(images())
    able = ", ".join(name for name in names() if get(name).takes_pair_mask)
    with pytest.raises(
        ValueError, match=rf"block 1 .* LinearAttention cannot honour; take one of {able}, or .* blocks=\[0, 2\]"
    ):
        exchange(model, "linear")
    assert torch.equal(model(images()), before)
    assert kinds(exchange(model, "linear", blocks=[0, 2])) == ["LinearAttention", "WindowAttention"] * 2
    assert model(images()).shape == (2, 5)


@resampling
def test_windows_that_begin_to_shift_later_are_refused_by_the_mechanism():
    """One window as large as the grid does not shift; four smaller ones do."""
    model = host_of("swin", window_size=((4, 4), (8, 8)))
    exchange(model, "linear", blocks=[3])
    assert model(images()).shape == (2, 5)
    model.set_input_size(window_size=4)
    with pytest.raises(ValueError, match=r"Use attention=softmax for a mask between pairs"):
        model(images())


@pytest.mark.parametrize(
    ("options", "attention", "message"),
    [
        (dict(use_key_only_attn_mask=False), "linear", r"take one of .*softmax.* use_key_only_attn_mask=True"),
        (dict(fix_init=True), "additive", "fix_init=False"),
        (dict(), "pool", "needs one fixed grid, which NaFlexVit does not have"),
    ],
)
def test_naflex_is_refused_where_it_passes_what_a_mechanism_cannot_take(options, attention, message):
    with pytest.raises(ValueError, match=message):
        exchange(host_of("naflex", **options), attention)


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
    with pytest.raises(ValueError, match=r"IdentityMixer and PoolMixer brings nothing .* class_token=False and global_pool=avg"):
        make(["identity", "pool", "pool"])
    assert make(["identity", "pool", "additive"])(images()).shape == (2, 5)
    assert make("pool", global_pool="avg")(images()).shape == (2, 5)
    assert make("identity", class_token=False, global_pool="avg")(images()).shape == (2, 5)
