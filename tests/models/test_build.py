import pytest
import torch
from timm.layers import Attention

from fvit.models import build
from fvit.models.build import attention_spec

SMALL = dict(patch_size=8, embed_dim=24, depth=3, num_heads=3)


def kinds(model):
    return [type(block.attn).__name__ for block in model.blocks]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "fvit_tiny_patch16_224"])
def test_builds_for_the_size_and_classes_asked_for(name):
    model = build(name, img_size=48, num_classes=7, attention="additive", **SMALL)
    assert model.patch_embed.grid_size == model.blocks[0].attn.grid_size == (6, 6)
    assert model(torch.zeros(2, 3, 48, 48)).shape == (2, 7)


def test_without_attention_the_model_stays_as_timm_makes_it():
    assert all(type(b.attn) is Attention for b in build("vit_tiny_patch16_224", 32, 5, **SMALL).blocks)
    assert kinds(build("fvit_tiny_patch16_224", 32, 5, **SMALL)) == ["AdditiveAttention"] * 3


def test_attention_and_blocks_are_passed_on():
    model = build("vit_tiny_patch16_224", 32, 5, attention=["linear", "additive"], blocks=[0, 2], **SMALL)
    assert kinds(model) == ["LinearAttention", "Attention", "AdditiveAttention"]


def test_what_is_kept_is_passed_on():
    model = build("vit_tiny_patch16_224", 32, 5, attention="linear", blocks="1-2", keep=["qkv"], **SMALL)
    assert [(report.block, len(report.kept)) for report in model.exchange_report] == [(1, 6), (2, 6)]


@pytest.mark.parametrize("setting", [dict(blocks="1-2"), dict(blocks=[0]), dict(keep=["qkv"])])
def test_surgery_without_an_attention_is_refused(setting):
    with pytest.raises(ValueError, match="no effect without an attention"):
        build("vit_tiny_patch16_224", 32, 5, **setting, **SMALL)


def test_convolutional_model_builds_without_a_size():
    model = build("resnet10t", img_size=32, num_classes=5)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_convolutional_model_refuses_an_attention():
    with pytest.raises(ValueError, match="no exchangeable attention"):
        build("resnet10t", img_size=32, num_classes=5, attention="additive")


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown model 'vit_tiny_patch16_225', did you mean .*vit_tiny_patch16_224"):
        build("vit_tiny_patch16_225", 32, 5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t"])
def test_unknown_option_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"model {name} does not take these options: .*nonsense"):
        build(name, 32, 5, nonsense=1)


def test_size_that_the_patches_do_not_divide_is_refused_with_one_that_they_do():
    with pytest.raises(ValueError, match=r"36 px do not divide into patches of 8 px; take data.img_size=32"):
        build("vit_tiny_patch16_224", 36, 5, **SMALL)


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        ({"name": "native"}, None),
        ({"name": "mixed", "layers": ("additive*8", "softmax*4")}, ["additive*8", "softmax*4"]),
        ({"name": "additive", "logits": "full"}, {"name": "additive", "logits": "full"}),
    ],
)
def test_config_becomes_a_spec(config, spec):
    assert attention_spec(config) == spec
