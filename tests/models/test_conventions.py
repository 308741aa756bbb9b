"""What ViP and CAS-ViT keep of timm's conventions."""

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from fvit.cost import count
from fvit.models import CasViT, VisionPermutator, build

CLASSES = {"vip_small7": VisionPermutator, "casvit_xs": CasViT, "casvit_s": CasViT}
# Few and narrow blocks; ViP on images of 28 px.
SMALL = {
    "vip_small7": dict(img_size=28, embed_dims=(16, 32), depths=(2, 2), segment_dims=(4, 8)),
    "casvit_xs": dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 2, 1)),
}


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def small(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **{**SMALL[name], "num_classes": 5, **options})


def images(batch=4, side=28, channels=3):
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("listed", CLASSES)
def test_timm_lists_it_with_its_data(listed):
    assert listed in timm.list_models(module=listed.split("_")[0])
    assert listed not in timm.list_models(pretrained=True)
    with torch.device("meta"):
        model = timm.create_model(listed)
    assert type(model) is CLASSES[listed]
    config = timm.data.resolve_model_data_config(model)
    crop = {"vip_small7": 0.9}.get(listed, 0.875)
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ((3, 224, 224), crop, "bicubic")
    modules = dict(model.named_modules())
    assert modules[model.pretrained_cfg["first_conv"]].in_channels == 3
    classifiers = model.pretrained_cfg["classifier"]
    if isinstance(classifiers, str):
        assert modules[classifiers] is model.get_classifier()
    else:
        assert tuple(modules[classifier] for classifier in classifiers) == model.get_classifier()


@pytest.mark.parametrize(
    ("listed", "printed", "params", "macs_paper", "macs"),
    [
        ("vip_small7", "25", 25_114_984, "6.90", "6.91"),
        ("casvit_xs", "3.20", 3_200_700, "0.55", "0.55"),
        ("casvit_s", "5.76", 5_764_224, "0.91", "0.92"),
    ],
)
def test_parameters_are_the_published_ones(listed, printed, params, macs_paper, macs):
    with torch.device("meta"):
        cost = count(timm.create_model(listed), 224)
    assert cost.params == params
    digits = len(printed.partition(".")[2])
    assert f"{params / 1e6:.{digits}f}" == printed
    assert (f"{cost.macs_paper / 1e9:.2f}", f"{cost.macs / 1e9:.2f}") == (macs_paper, macs)


def test_pretrained_weights_do_not_exist_and_timm_says_so(name):
    with pytest.raises(RuntimeError, match=f"No pretrained weights exist for {name}"):
        timm.create_model(name, pretrained=True)


def test_every_parameter_receives_a_gradient(name):
    model = small(name).train()
    model(images()).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_head_and_features_make_the_model(name):
    model = small(name).eval()
    features = model.forward_features(images())
    torch.testing.assert_close(model.forward_head(features), model(images()))
    pooled = model.forward_head(features, pre_logits=True)
    positions = (1, 2) if model.output_fmt == "NHWC" else (2, 3)
    torch.testing.assert_close(pooled, features.mean(dim=positions))
    assert pooled.shape == (4, model.num_features)


def test_without_classes_or_pooling_features_are_returned(name):
    assert small(name, num_classes=0)(images()).shape == (4, small(name).num_features)
    model = small(name, num_classes=0, global_pool="").eval()
    torch.testing.assert_close(model(images()), model.forward_features(images()))


@pytest.mark.parametrize("pool", [None, "avg", "max", "catavgmax"])
def test_classifier_can_be_reset(name, pool):
    model = small(name, num_classes=0).double()
    model.reset_classifier(7, pool)
    assert model.num_classes == 7
    assert model(images().double()).shape == (4, 7)
    model.reset_classifier(0)
    assert model(images().double()).shape == (4, model.num_features * (2 if pool == "catavgmax" else 1))


def test_takes_other_channels_and_classes(name):
    assert small(name, in_chans=1, num_classes=3)(images(channels=1)).shape == (4, 3)


def test_dropout_is_before_the_head_alone(name):
    model = small(name, drop_rate=0.5).train()
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout) and module.p] == [0.5]
    assert model.head.drop.p == 0.5


def test_stochastic_depth_grows_from_none_to_the_rate(name):
    model = small(name, drop_path_rate=0.3)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.3, len(rates)))
    model.eval()
    torch.testing.assert_close(model(images()), small(name).eval()(images()))


def test_gradient_checkpointing_changes_no_gradient_and_runs_blocks_twice(name):
    def gradients(enable):
        model = small(name).double().train()
        model.set_grad_checkpointing(enable)
        calls = []
        model.stages[0].blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
        model(images().double()).square().sum().backward()
        return {key: p.grad for key, p in model.named_parameters()}, len(calls)

    (plain, once), (checkpointed, twice) = gradients(False), gradients(True)
    assert (once, twice) == (1, 2)
    torch.testing.assert_close(checkpointed, plain, rtol=1e-10, atol=1e-10)


def test_layers_are_told_apart_for_a_rate_that_decays(name):
    model = small(name)
    groups = create_optimizer_v2(model, opt="adamw", lr=1.0, layer_decay=0.5).param_groups
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    first = scale[id(model.patch_embed.proj.weight if name == "vip_small7" else model.patch_embed[0][0].weight)]
    blocks = [scale[id(next(block.parameters()))] for stage in model.stages for block in stage.blocks]
    head = scale[id(model.head.fc.weight)]
    assert first < blocks[0]
    assert blocks == sorted(set(blocks))
    assert blocks[-1] < head == 1


@pytest.mark.parametrize(
    ("listed", "shapes", "reductions"),
    [
        ("vip_small7", [(4, 4, 4, 16), (4, 2, 2, 32)], [7, 14]),
        ("casvit_xs", [(4, 8, 7, 7), (4, 8, 4, 4), (4, 16, 2, 2), (4, 16, 1, 1)], [4, 8, 16, 32]),
    ],
)
def test_features_only(listed, shapes, reductions):
    model = small(listed, features_only=True)
    assert [tuple(f.shape) for f in model(images())] == shapes
    assert model.feature_info.reduction() == reductions
    assert len(small(listed, features_only=True, out_indices=(1,))(images())) == 1


def test_unknown_option_is_refused(name):
    with pytest.raises(ValueError, match=f"model {name} does not take these options: .*nonsense"):
        build(name, 28, 5, nonsense=1)


def test_stages_must_agree(name):
    with pytest.raises(ValueError, match=r"depths=\[1\] has 1 entries; give"):
        small(name, depths=(1,))


def test_linear_layers_begin_small_and_without_bias(name):
    linear = [m for m in small(name).modules() if isinstance(m, nn.Linear)]
    assert all(m.weight.abs().max() < 0.1 and (m.bias is None or not m.bias.any()) for m in linear)


def test_learns_four_images(name):
    model = small(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(images()), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
