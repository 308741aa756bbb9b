"""Inside timm's VisionTransformer: with and without class token, at two sizes of image, under checkpointing."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import Mechanism, bind, get
from fvit.models import exchange

from .suite import every_case

SIZES = [(32, 48), (64, 32)]
PREFIXES = {
    "class token": dict(class_token=True, global_pool="token"),
    "class token and registers": dict(class_token=True, reg_tokens=4, global_pool="token"),
    "patches alone": dict(class_token=False, global_pool="avg"),
}


def host(case, prefix="patches alone", size=SIZES[0], **timm_options):
    """A ViT of two blocks that was built with the mechanism as its `attn_layer`."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=size,
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=3,
        num_classes=5,
        mlp_ratio=1.0,
        **PREFIXES[prefix],
        **timm_options,
        attn_layer=bind(get(case.key), **case.options),
    )
    for index, block in enumerate(model.blocks):
        block.attn.set_layout(tuple(model.patch_embed.grid_size), model.num_prefix_tokens, index)
    return model


def images(size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def without_gradient(model):
    """Names of the parameters that have no finite gradient."""
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("prefix", PREFIXES)
@every_case
def test_trains_as_timms_attn_layer(case, prefix, size):
    if prefix != "patches alone" and not get(case.key).takes_prefix:
        pytest.skip("takes no prefix tokens; that exchange refuses them is tested below")
    model = host(case, prefix, size)
    out = model(images(size))
    assert out.shape == (2, 5)
    out.square().sum().backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize("prefix", PREFIXES)
@every_case
def test_exchange_follows_the_size_of_the_images(case, prefix):
    model = VisionTransformer(
        img_size=SIZES[0], patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, **PREFIXES[prefix]
    )
    spec = {"name": case.key, **case.options}
    if prefix != "patches alone" and not get(case.key).takes_prefix:
        with pytest.raises(ValueError, match="takes no class or register tokens"):
            exchange(model, spec)
        return
    if prefix != "patches alone" and not get(case.key).reaches_prefix:
        with pytest.raises(ValueError, match="reads the class token"):
            exchange(model, spec)
        return
    exchange(model, spec)
    assert all(isinstance(block.attn, Mechanism) for block in model.blocks)
    for size in SIZES:
        model.set_input_size(size)
        model.zero_grad()
        model(images(size)).square().sum().backward()
        assert without_gradient(model) == []
        assert model.blocks[0].attn.grid_size == (size[0] // 8, size[1] // 8)


@every_case
def test_checkpointing_gives_the_same_gradients(case):
    gradients = []
    for checkpointing in (False, True):
        model = host(case).train()
        model.set_grad_checkpointing(checkpointing)
        model(images(SIZES[0])).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)
