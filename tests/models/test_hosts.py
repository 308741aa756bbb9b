"""Which hosts are accepted, and which are rejected with which remedy."""

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
    both_ways,
    class_name,
    finished,
    host_of,
    images,
    kinds,
    meta_host,
    resampling,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "flexivit_small",
        "vit_base_patch16_siglip_224",
        "vit_little_patch16_reg4_gap_256",
        "vit_medium_patch16_gap_240",
        "vit_tiny_r_s16_p8_224",
        "test_vit",
        "swin_s3_tiny_224",
        "vit_pe_core_tiny_patch16_384",
        "cait_xxs24_224",
    ],
)
def test_named_host_is_accepted(name):
    model = meta_host(name)
    with torch.device("meta"):
        exchange(model, "softmax", keep=["qkv", "proj"])
    assert set(kinds(model)) == {"softmax"}
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
def test_other_model_is_rejected_with_the_supported_hosts(name):
    model = meta_host(name)
    with pytest.raises(ValueError, match=r"supported hosts are timm's VisionTransformers"):
        exchange(model, "additive")


@both_ways
def test_parallel_scaling_blocks_are_rejected(make):
    """timm ignores `attn_layer` in these silently."""
    with pytest.raises(ValueError, match="ParallelScalingBlock"):
        make("additive", block_fn=ParallelScalingBlock)


def test_other_modules_are_rejected():
    with pytest.raises(ValueError, match="Linear has no exchangeable attention; supported hosts are"):
        exchange(nn.Linear(2, 2), "additive")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eva02_base_patch16_clip_224", "cannot honour scale_norm=True"),
        ("vit_large_patch16_sapiens2", "block 8 cannot be exchanged: its k projection .* keys have fewer heads"),
    ],
)
def test_attention_that_computes_something_else_is_rejected(name, message):
    model = meta_host(name)
    with pytest.raises(ValueError, match=message):
        exchange(model, "softmax")


@pytest.mark.parametrize("kind", ["vit", "eva"])
def test_gated_attention_is_rejected(kind):
    model = host_of(kind)
    model.blocks[1].attn.gate = nn.Linear(24, 24)
    with pytest.raises(ValueError, match="attention of block 1 cannot be exchanged: it is gated"):
        exchange(model, "softmax")


def test_shifted_windows_are_rejected_for_mechanisms_that_would_ignore_their_mask():
    model = host_of("swin")
    before = model(images())
    able = ", ".join(name for name in names() if get(name).takes_pair_mask)
    with pytest.raises(
        ValueError,
        match=rf"block 1 .* {class_name('linear')} cannot honour; use one of {able}, or .* blocks=\[0, 2\]",
    ):
        exchange(model, "linear")
    assert torch.equal(model(images()), before)
    assert kinds(exchange(model, "linear", blocks=[0, 2])) == ["linear", "WindowAttention"] * 2
    assert model(images()).shape == (2, 5)


@resampling
def test_windows_that_shift_after_a_resize_are_rejected_by_the_mechanism():
    """A single window as large as the grid does not shift; four smaller ones do."""
    model = host_of("swin", window_size=((4, 4), (8, 8)))
    exchange(model, "linear", blocks=[3])
    assert model(images()).shape == (2, 5)
    model.set_input_size(window_size=4)
    with pytest.raises(ValueError, match=r"attention=softmax"):
        model(images())


@pytest.mark.parametrize(
    ("options", "attention", "message"),
    [
        (dict(use_key_only_attn_mask=False), "linear", r"use one of .*softmax.* use_key_only_attn_mask=True"),
        (dict(fix_init=True), "additive", "fix_init=False"),
        (dict(), "pool", "needs one fixed grid, which NaFlexVit does not have"),
    ],
)
def test_naflex_is_rejected_if_it_passes_what_a_mechanism_cannot_take(options, attention, message):
    with pytest.raises(ValueError, match=message):
        exchange(host_of("naflex", **options), attention)


@both_ways
@pytest.mark.parametrize(
    ("options", "attention", "message"),
    [
        (dict(qk_norm=True), "additive", "cannot honour qk_norm=True"),
        (dict(proj_bias=False), "additive", "cannot honour proj_bias=False"),
        (dict(scale_attn_norm=True), "softmax", "cannot honour scale_norm=True"),
        (dict(qk_norm=True), "linear", "cannot honour qk_norm=True"),
    ],
)
def test_host_option_that_a_mechanism_lacks_is_rejected(make, options, attention, message):
    with pytest.raises(ValueError, match=message):
        make(attention, **options)


def test_remedy_does_not_recommend_what_would_be_rejected_too():
    with pytest.raises(ValueError, match="scale_norm") as error:
        finished("softmax", scale_attn_norm=True)
    assert "attention=softmax" not in str(error.value)


@both_ways
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
def test_host_that_lacks_what_a_mechanism_needs_is_rejected_with_the_remedy(make, attention, options, remedy):
    with pytest.raises(ValueError, match=remedy):
        make(attention, **options)


@both_ways
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
def test_host_with_what_a_mechanism_needs_is_accepted(make, attention, options):
    assert make(attention, **options)(images()).shape == (2, 5)


@both_ways
def test_head_on_a_class_token_that_sees_no_patches_is_rejected_with_the_remedy(make):
    names = f"{class_name('identity')} and {class_name('pool')}"
    with pytest.raises(ValueError, match=f"{names} does not let see .* class_token=False and global_pool=avg"):
        make(["identity", "pool", "pool"])
    assert make(["identity", "pool", "additive"])(images()).shape == (2, 5)
    assert make("pool", global_pool="avg")(images()).shape == (2, 5)
    assert make("identity", class_token=False, global_pool="avg")(images()).shape == (2, 5)
