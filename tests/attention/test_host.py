"""Inside timm's VisionTransformer: with and without class token, at two image sizes, with gradient checkpointing."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import Mechanism, bind, get
from fvit.models import exchange

from .cases import DEFAULTS
from .suite import every_full, over

SIZES = [(32, 48), (64, 32)]
SHAPE = dict(patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, mlp_ratio=1.0)
PREFIXES = {
    "class token": dict(class_token=True, global_pool="token"),
    "class token and registers": dict(class_token=True, reg_tokens=4, global_pool="token"),
    "patches only": dict(class_token=False, global_pool="avg"),
}


def host(case, prefix="patches only", size=SIZES[0]):
    """A ViT of two blocks built with the mechanism as its `attn_layer`."""
    torch.manual_seed(0)
    attn_layer = bind(get(case.key), **case.options)
    model = VisionTransformer(img_size=size, **SHAPE, **PREFIXES[prefix], attn_layer=attn_layer)
    for index, block in enumerate(model.blocks):
        block.attn.set_layout(tuple(model.patch_embed.grid_size), model.num_prefix_tokens, index)
    return model


def images(size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def without_gradient(model):
    """Names of the parameters without a finite gradient."""
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@every_full
def test_trains_as_timms_attn_layer(case):
    for prefix, size in zip(PREFIXES, (*SIZES, SIZES[1]), strict=True):
        if prefix != "patches only" and not get(case.key).takes_prefix:
            continue
        model = host(case, prefix, size)
        out = model(images(size))
        assert out.shape == (2, 5)
        out.square().sum().backward()
        assert without_gradient(model) == []


@every_full
def test_exchange_follows_the_image_size(case):
    cls, spec = get(case.key), {"name": case.key, **case.options}
    for prefix in ("class token and registers", "patches only"):
        model = VisionTransformer(img_size=SIZES[0], **SHAPE, **PREFIXES[prefix])
        if prefix != "patches only" and not (cls.takes_prefix and cls.reaches_prefix):
            match = "reads the class token" if cls.takes_prefix else "takes no class or register tokens"
            with pytest.raises(ValueError, match=match):
                exchange(model, spec)
            continue
        exchange(model, spec)
        assert all(isinstance(block.attn, Mechanism) for block in model.blocks)
        for size in SIZES:
            model.set_input_size(size)
            model.zero_grad()
            model(images(size)).square().sum().backward()
            assert without_gradient(model) == []
            assert model.blocks[0].attn.grid_size == (size[0] // 8, size[1] // 8)


@over(DEFAULTS, lambda case: case.key in ("additive", "softmax", "window", "performer", "mixer", "synthesizer"))
def test_checkpointing_gives_the_same_gradients(case):
    gradients = []
    for checkpointing in (False, True):
        model = host(case).train()
        model.set_grad_checkpointing(checkpointing)
        model(images(SIZES[0])).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)
