import pytest
import torch
from timm.layers import Attention

from fvit.models import build
from fvit.models.build import check_stride

from .small import SMALL, kinds

SHAPE = {name: value for name, value in SMALL.items() if name not in ("img_size", "num_classes")}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "fvit_tiny_patch16_224"])
def test_builds_for_the_requested_size_and_classes(name):
    model = build(name, img_size=48, num_classes=7, attention="additive", **SHAPE)
    assert model.patch_embed.grid_size == model.blocks[0].attn.grid_size == (6, 6)
    assert model(torch.zeros(2, 3, 48, 48)).shape == (2, 7)


def test_without_attention_the_model_stays_as_timm_makes_it():
    assert all(type(b.attn) is Attention for b in build("vit_tiny_patch16_224", 32, 5, **SHAPE).blocks)
    assert kinds(build("fvit_tiny_patch16_224", 32, 5, **SHAPE)) == ["additive"] * 3


def test_arguments_of_the_exchange_are_passed_on():
    model = build("vit_tiny_patch16_224", 32, 5, attention=["linear", "additive"], blocks=[0, 2], keep=["qkv"], **SHAPE)
    assert kinds(model) == ["linear", "Attention", "additive"]
    assert [(report.block, len(report.kept)) for report in model.exchange_report] == [(0, 6), (2, 4)]


@pytest.mark.parametrize(
    ("setting", "message"),
    [(dict(blocks="1-2"), "blocks='1-2'"), (dict(blocks=0), "blocks=0"), (dict(keep=["qkv"]), r"keep=\['qkv'\]")],
)
def test_settings_without_effect_are_rejected(setting, message):
    with pytest.raises(ValueError, match=f"{message} has no effect with attention=native"):
        build("vit_tiny_patch16_224", 32, 5, **setting, **SHAPE)


def test_convolutional_model_builds_without_a_size_and_takes_no_attention():
    assert build("resnet10t", img_size=32, num_classes=5)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(ValueError, match="no exchangeable attention"):
        build("resnet10t", img_size=32, num_classes=5, attention="additive")


def test_unknown_model_is_rejected_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown model 'vit_tiny_patch16_225', did you mean .*vit_tiny_patch16_224"):
        build("vit_tiny_patch16_225", 32, 5)


@pytest.mark.parametrize(
    ("name", "option", "near"),
    [
        ("vit_tiny_patch16_224", "embed_dimm", "embed_dim"),
        ("fvit_tiny_patch16_224", "drop_path_rat", "drop_path_rate"),  # an argument of the base class
        ("resnet10t", "drop_pth_rate", "drop_path_rate"),
        ("casvit_xs", "depth", "depths"),
    ],
)
def test_unknown_option_is_rejected_with_the_nearest_and_all_others(name, option, near):
    with pytest.raises(ValueError, match=f"model {name} has no option '{option}', did you mean .*{near}.* it takes: "):
        build(name, 32, 5, **{option: 1})


def test_other_type_errors_of_options_are_reported():
    with pytest.raises(ValueError, match="model vit_tiny_patch16_224 cannot be built with these options: "):
        build("vit_tiny_patch16_224", 32, 5, depth="many")


def test_size_that_patches_do_not_divide_is_rejected_with_one_that_they_do():
    with pytest.raises(ValueError, match=r"36 px do not divide into patches of 8 px; use data.img_size=32"):
        build("vit_tiny_patch16_224", 36, 5, **SHAPE)


# Strides


@pytest.mark.parametrize(
    ("name", "size", "remedy"),
    [("efficientformerv2_s0", 40, 32), ("efficientformerv2_s0", 48, 64), ("convnextv2_atto", 16, 32)],
)
def test_size_on_which_the_model_would_fail_is_rejected_with_one_that_works(name, size, remedy):
    with torch.device("meta"), pytest.raises(ValueError, match=f"does not run on images of {size} px") as error:
        build(name, size, 10)
    assert f"use data.img_size={remedy}, or another multiple of its stride of 32 px" in str(error.value)
    with torch.device("meta"):
        assert build(name, remedy, 10)(torch.empty(2, 3, remedy, remedy)).shape == (2, 10)


@pytest.mark.parametrize("name", ["swiftformer_xs", "mobilevitv2_050", "fastvit_t8", "casvit_xs"])
def test_model_that_rounds_up_takes_any_size(name):
    with torch.device("meta"):
        assert build(name, 20, 10)(torch.empty(2, 3, 20, 20)).shape == (2, 10)


def test_stride_is_checked_with_the_models_channels():
    with torch.device("meta"):
        build("casvit_xs", 20, 10, in_chans=1)


@pytest.mark.parametrize("size", [20, 32])
def test_check_of_the_stride_leaves_the_model_unchanged(size):
    model = build("convnextv2_atto", 32, 10)
    model.stages[0].eval()
    parameters = {name: (id(p), p.device.type) for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    if size == 20:
        with pytest.raises(ValueError, match="convnextv2_atto"):
            check_stride(model, "convnextv2_atto", size)
    else:
        check_stride(model, "convnextv2_atto", size)
    assert {name: (id(p), p.device.type) for name, p in model.named_parameters()} == parameters
    assert [module.training for module in model.modules()] == modes
