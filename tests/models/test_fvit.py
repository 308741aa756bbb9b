"""FViT in timm's registry: names, configs, features, and timm's arguments."""

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import get
from fvit.models import FViT

WIDTHS = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
NAMES = [f"fvit_{size}_patch{patch}_{side}" for size in WIDTHS for patch in (16, 32) for side in (224, 384)]
SMALL = dict(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=5)


def small(**options):
    torch.manual_seed(0)
    return timm.create_model("fvit_tiny_patch16_224", **{**SMALL, **options})


def images(batch=2):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_timm_lists_exactly_twelve_names():
    assert timm.list_models("fvit_*") == sorted(NAMES)
    assert timm.list_models(module="fvit") == ["exchanged", *sorted(NAMES)]


@pytest.mark.parametrize("name", NAMES)
def test_shape_is_what_the_name_says(name):
    _, size, patch, side = name.split("_")
    width, heads = WIDTHS[size]
    with torch.device("meta"):
        model = timm.create_model(name)
    assert isinstance(model, FViT)
    assert (model.embed_dim, len(model.blocks)) == (width, 12)
    assert all(type(b.attn) is get("additive") and b.attn.num_heads == heads for b in model.blocks)
    assert model.patch_embed.patch_size == (int(patch.removeprefix("patch")),) * 2
    assert model.patch_embed.img_size == (int(side),) * 2
    assert model.num_classes == get_pretrained_cfg(name).num_classes == 1000
    assert not get_pretrained_cfg(name).has_weights
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, int(side), int(side))


def test_real_model_of_full_size_runs():
    model = timm.create_model("fvit_tiny_patch32_224")
    assert model(torch.randn(1, 3, 224, 224)).shape == (1, 1000)


def test_is_a_timm_vision_transformer_apart_from_the_attention():
    ours = {name for name in small().state_dict() if ".attn." not in name}
    theirs = {name for name in VisionTransformer(**SMALL).state_dict() if ".attn." not in name}
    assert ours == theirs


def test_takes_timms_arguments():
    model = small(drop_path_rate=0.2, init_values=1e-4, class_token=False, global_pool="avg", reg_tokens=2)
    assert model.num_prefix_tokens == 2
    assert model(images()).shape == (2, 5)


def test_number_of_classes_can_be_overridden():
    assert small(num_classes=7)(images()).shape == (2, 7)
    assert small(num_classes=0)(images()).shape == (2, 24)


def test_classifier_can_be_reset():
    model = small()
    model.reset_classifier(9)
    assert model(images()).shape == (2, 9)


def test_pretrained_weights_do_not_exist_and_timm_says_so():
    with pytest.raises(RuntimeError, match=r"No pretrained weights exist for fvit_tiny_patch16_224.*pretrained=False"):
        timm.create_model("fvit_tiny_patch16_224", pretrained=True)


@pytest.mark.parametrize(("wanted", "count"), [({}, 3), (dict(out_indices=2), 2), (dict(out_indices=(0, 3)), 2)])
def test_features_only(wanted, count):
    model = small(features_only=True, **wanted)
    features = model(images())
    assert [f.shape for f in features] == [(2, 24, 4, 4)] * count
    assert model.feature_info.channels() == [24] * count
    assert model.feature_info.reduction() == [8] * count


def test_features_equal_forward_intermediates():
    whole = small().eval()
    features = small(features_only=True, out_indices=(1, 3)).eval()
    expected = whole.forward_intermediates(images(), indices=[1, 3], intermediates_only=True)
    torch.testing.assert_close(features(images()), expected)


def test_forward_intermediates():
    model = small().eval()
    final, maps = model.forward_intermediates(images(), indices=[0, 2])
    assert [m.shape for m in maps] == [(2, 24, 4, 4)] * 2
    torch.testing.assert_close(final, model.forward_features(images()))


def test_forward_intermediates_of_the_first_block_come_from_its_attention():
    model = small().eval()
    changed = small().eval()
    torch.nn.init.normal_(changed.blocks[1].attn.q.weight)
    one, other = (m.forward_intermediates(images(), indices=[0, 1], intermediates_only=True) for m in (model, changed))
    assert torch.equal(one[0], other[0])
    assert not torch.allclose(one[1], other[1])


def test_gradient_checkpointing_runs_blocks_twice():
    model = small().train()
    model.set_grad_checkpointing(True)
    calls = []
    model.blocks[0].attn.register_forward_hook(lambda *_: calls.append(1))
    model(images()).sum().backward()
    assert len(calls) == 2


def test_mask_reaches_the_mechanism():
    """timm passes `attn_mask` to every block, so the content of a masked patch has no effect."""
    model = small(attention=["additive", "softmax", "linear", "identity"]).eval()
    keep = (torch.arange(17) < 16).view(1, 1, 1, 17)
    one, other = images(), images()
    other[:, :, 24:, 24:] = 7.0
    torch.testing.assert_close(model(one, attn_mask=keep), model(other, attn_mask=keep))
    assert not torch.allclose(model(one), model(other))


def test_attn_layer_is_rejected():
    with pytest.raises(ValueError, match="FViT takes attention=…"):
        small(attn_layer=get("softmax"))
