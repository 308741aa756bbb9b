"""The forward pass at another size: that of a model with resampled weights, with gradients for the full ones."""

import copy

import pytest
import timm
import torch
from torch.testing import assert_close

from fvit.models import exchange
from fvit.models.any_size import check_sizes, forward_any_size

SHAPE = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=4)


def vit(attention=None, **options):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **{**SHAPE, **options})
    return model if attention is None else exchange(model, attention)


MODELS = {
    "class token": lambda: vit(),
    "registers, apart from positions": lambda: vit(reg_tokens=2, no_embed_class=True),
    "gfnet": lambda: vit("gfnet", class_token=False, global_pool="avg"),
    "window": lambda: vit({"name": "window", "window": 2}, class_token=False, global_pool="avg"),
    "linformer": lambda: vit("linformer"),
    "agent": lambda: vit("agent"),
    "mixer": lambda: vit("mixer"),
    "random": lambda: vit("random", class_token=False, global_pool="avg"),
    "synthesizer": lambda: vit("synthesizer"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [16, 24])
def test_equals_a_model_whose_input_size_was_set(name, size):
    model, images = MODELS[name](), torch.randn(2, 3, size, size)
    before = copy.deepcopy(model)
    resized = copy.deepcopy(model)
    resized.set_input_size((size, size))
    forward_any_size(model, images).sum().backward()
    with torch.no_grad():
        assert_close(forward_any_size(model, images), resized(images))
        full = torch.randn(2, 3, 32, 32)
        assert torch.equal(forward_any_size(model, full), before(full))  # nothing has changed
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before.parameters(), strict=True))
    # Weights that the grid shapes have a gradient of their full shape.
    assert model.pos_embed.grad.abs().sum() > 0
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_convolutions_and_dynamic_models_see_the_images_as_they_are():
    images = torch.randn(1, 3, 16, 16)
    for model in (vit(dynamic_img_size=True), timm.create_model("convmixer_768_32", num_classes=2).eval()):
        check_sizes(model, [16, 32])
        assert torch.equal(forward_any_size(model, images), model(images))


@pytest.mark.parametrize(
    ("name", "options", "size", "message"),
    [
        (
            "vit_tiny_patch16_224",
            SHAPE,
            20,
            "20 px, which data.size_schedule has: they do not divide into patches of 8",
        ),
        ("beit_base_patch16_224", SHAPE, 16, "Beit cannot be trained on images of 16 px"),
    ],
)
def test_sizes_that_a_model_does_not_take_are_refused(name, options, size, message):
    model = timm.create_model(name, **options)
    with pytest.raises(ValueError, match=message):
        check_sizes(model, [size])
    assert model.training
    assert next(model.parameters()).device.type == "cpu"


def test_recomputing_blocks_that_depend_on_the_size_is_refused():
    with pytest.raises(ValueError, match="set grad_checkpointing=false"):
        check_sizes(vit("linformer"), [16], recomputes=True)
    check_sizes(vit("linear"), [16], recomputes=True)
