"""Features are what the layers of the model give."""

import pytest
import torch

from fvit.models import build, exchange
from fvit.models.features import features
from tests.models.small import images, small_host


def outputs(model, module, batch):
    """What `module` gives and takes while the model classifies `batch`."""
    found = []
    handle = module.register_forward_hook(lambda module, args, output: found.append((args[0], output)))
    with torch.no_grad():
        model(batch)
    handle.remove()
    return found[0]


VARIANTS = {
    "class token": {},
    "registers": dict(reg_tokens=2),
    "mean": dict(class_token=False, global_pool="avg"),
    "additive": {},
    "BEiT": dict(name="beit_base_patch16_224"),
    "DINOv3": dict(name="vit_small_patch16_dinov3"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_of_a_vit(variant):
    model, batch = small_host(**VARIANTS[variant]), images()
    if variant == "additive":
        exchange(model, "additive")
    prefix = getattr(model, "num_prefix_tokens", 0)
    with torch.no_grad():
        before_head, _ = outputs(model, model.head, batch)
        torch.testing.assert_close(features(model, batch), before_head)
        for layer in (0, 2, -1):
            _, tokens = outputs(model, model.blocks[layer], batch)
            tokens = model.norm(tokens)
            mean = tokens[:, prefix:].mean(dim=1)
            torch.testing.assert_close(features(model, batch, layer, "avg"), mean)
            if model.cls_token is None:
                torch.testing.assert_close(features(model, batch, layer), mean)
                with pytest.raises(ValueError, match=r"VisionTransformer has no class token there; use probe.pool=avg"):
                    features(model, batch, layer, "token")
            else:
                torch.testing.assert_close(features(model, batch, layer, "token"), tokens[:, 0])
        torch.testing.assert_close(features(model, batch, None, "avg"), features(model, batch, -1, "avg"))


@pytest.mark.parametrize("name", ["convnextv2_atto", "swin_tiny_patch4_window7_224"])
def test_layers_of_models_with_stages_are_their_stages(name):
    size = 32 if name.startswith("conv") else 56
    model, batch = build(name, size, 5).eval(), torch.randn(2, 3, size, size)
    with torch.no_grad():
        stage = model.stages[1] if name.startswith("conv") else model.layers[1]
        _, maps = outputs(model, stage, batch)
        channels = maps if name.startswith("conv") else maps.permute(0, 3, 1, 2)
        torch.testing.assert_close(features(model, batch, 1), channels.mean(dim=(2, 3)))
        assert features(model, batch).shape == (2, model.num_features)
    with pytest.raises(ValueError, match=r"probe.layer=4: \w+ has layers 0 to 3"):
        features(model, batch, 4)
    with pytest.raises(ValueError, match=r"probe.pool=token: \w+ has no class token there; use probe.pool=avg"):
        features(model, batch, 1, "token")


def test_backbones_of_fvit_give_the_features_of_their_head():
    model, batch = build("crossformerpp_s", 32, 5).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before_head, _ = outputs(model, model.get_classifier(), batch)
        torch.testing.assert_close(features(model, batch), before_head)
    with pytest.raises(ValueError, match=r"CrossFormer gives the features of its head alone: leave probe.layer"):
        features(model, batch, 0)
