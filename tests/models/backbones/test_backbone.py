"""What every backbone has in common: timm's conventions, training, copies, dtypes."""

import copy
import inspect

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

from fvit.models import build

NAMES = ["crossformerpp_s", "fastervit_0", "vip_small7", "casvit_xs", "casvit_s"]
# Few and narrow blocks of the same kinds, including a stage with cooling layers and one with carriers.
SMALL = {
    "crossformerpp_s": dict(embed_dim=16, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 4), group_sizes=(4, 2, 3, 2)),
    "fastervit_0": dict(stem_dim=8, embed_dim=8, depths=(1, 1, 2, 1), num_heads=(2, 4)),
    "vip_small7": dict(img_size=56, embed_dims=(16, 32), depths=(2, 2), segment_dims=(2, 8)),
    "casvit_xs": dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 2, 1)),
    "casvit_s": dict(embed_dims=(8, 16, 16, 16), depths=(1, 2, 2, 1)),
}
SIDES = {name: 56 if name == "vip_small7" else 64 for name in NAMES}
# Feature maps of the stages: layout, channels, and pixels per position.
CHANNELS_LAST = ("crossformerpp_s", "vip_small7")
WIDTHS = {
    "crossformerpp_s": [16, 32, 64, 128],
    "fastervit_0": [8, 16, 32, 64],
    "vip_small7": [16, 32],
    "casvit_xs": [8, 8, 16, 16],
    "casvit_s": [8, 16, 16, 16],
}
REDUCTIONS = {name: [7, 14] if name == "vip_small7" else [4, 8, 16, 32] for name in NAMES}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def small(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **{**SMALL[name], "num_classes": 5, **options})


def images(name, batch=2, channels=3):
    return torch.randn(batch, channels, SIDES[name], SIDES[name], generator=torch.Generator().manual_seed(0))


def rates(name):
    """The arguments of the model that are dropout rates."""
    with torch.device("meta"):
        parameters = inspect.signature(type(small(name))).parameters
    return [parameter for parameter in parameters if parameter.endswith("_rate")]


def listed(module):
    """Modules named in timm's config, by one name or several."""
    return (module,) if isinstance(module, str) else tuple(module)


def test_timm_knows_the_name_and_its_config(name):
    assert timm.is_model(name)
    with torch.device("meta"):
        model = timm.create_model(name)
    config = timm.data.resolve_model_data_config(model)
    crop_pct = 0.9 if name == "vip_small7" else 0.875
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ((3, 224, 224), crop_pct, "bicubic")
    modules = dict(model.named_modules())
    assert all(modules[conv].in_channels == 3 for conv in listed(model.pretrained_cfg["first_conv"]))
    classifiers = model.get_classifier()
    named = tuple(modules[layer] for layer in listed(model.pretrained_cfg["classifier"]))
    assert named == (classifiers if isinstance(classifiers, tuple) else (classifiers,))


@pytest.mark.slow
def test_builds_on_meta_at_full_size(name):
    with torch.device("meta"):
        model = build(name, img_size=224, num_classes=1000)
    assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)


@pytest.mark.parametrize("training", [True, False])
def test_every_parameter_receives_a_gradient(name, training):
    model = small(name).train(training)
    model(images(name)).square().mean().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    weights = {key: p.grad for key, p in model.named_parameters() if key.endswith("weight")}
    assert [key for key, grad in weights.items() if not grad.any()] == []


def test_evaluation_is_deterministic_and_independent_of_the_batch(name):
    model, x = small(name, **dict.fromkeys(rates(name), 0.3)).eval(), images(name, 3)
    out = model(x)
    torch.testing.assert_close(model(x), out, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([model(image[None]) for image in x]), out, rtol=1e-5, atol=1e-5)


def test_every_rate_acts_in_training(name):
    assert {"drop_rate", "drop_path_rate"} <= set(rates(name))
    for rate in rates(name):
        model = small(name, **{rate: 0.5}).train()
        assert not torch.equal(model(images(name)), model(images(name))), rate


def test_state_dict_round_trip(name):
    model = small(name).eval()
    torch.manual_seed(1)
    other = timm.create_model(name, num_classes=5, **SMALL[name]).eval()
    assert not torch.equal(model(images(name)), other(images(name)))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(images(name)), other(images(name)), rtol=0, atol=0)


def test_deep_copy_computes_the_same_and_shares_nothing(name):
    model = small(name).eval()
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(images(name)), model(images(name)), rtol=0, atol=0)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in twin.parameters()}


def test_meta_model_takes_the_weights_of_a_real_one(name):
    model = small(name).eval()
    with torch.device("meta"):
        other = small(name).eval()
    other.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(other(images(name)), model(images(name)), rtol=0, atol=0)


def test_runs_in_bfloat16(name):
    assert small(name).bfloat16()(images(name).bfloat16()).dtype == torch.bfloat16


def test_runs_under_autocast(name):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = small(name).eval()(images(name))
    torch.testing.assert_close(out.float(), small(name).eval()(images(name)), rtol=0.1, atol=0.05)


def test_channels_and_classes(name):
    assert small(name, in_chans=1, num_classes=7)(images(name, channels=1)).shape == (2, 7)
    width = small(name).num_features
    assert small(name, num_classes=0)(images(name)).shape == (2, width)


def test_head_follows_timms_interface(name):
    model = small(name).eval()
    features = model.forward_features(images(name))
    torch.testing.assert_close(model.forward_head(features), model(images(name)), rtol=0, atol=0)
    axes = (1, 2) if model.output_fmt == "NHWC" else (2, 3)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.mean(axes))
    assert model.head.fc.out_features == model.num_classes == 5
    model.reset_classifier(9)
    assert model(images(name)).shape == (2, model.num_classes) == (2, 9)
    model.reset_classifier(0, global_pool="max")
    torch.testing.assert_close(model(images(name)), features.amax(axes))


def test_new_classifier_has_the_models_dtype(name):
    model = small(name).double().eval()
    model.reset_classifier(0)
    model.reset_classifier(3)
    assert model(images(name).double()).shape == (2, 3)


def test_global_pool_is_an_argument(name):
    model = small(name, num_classes=0, global_pool="").eval()
    torch.testing.assert_close(model(images(name)), model.forward_features(images(name)), rtol=0, atol=0)


def test_features_only(name):
    widths, reductions, last = WIDTHS[name], REDUCTIONS[name], len(WIDTHS[name]) - 1
    assert len(small(name, features_only=True)(images(name))) == len(widths)
    model = small(name, features_only=True, out_indices=(0, last)).eval()
    assert model.feature_info.channels() == [widths[0], widths[last]]
    assert model.feature_info.reduction() == [reductions[0], reductions[last]]
    for stage, feature in zip((0, last), model(images(name)), strict=True):
        side = SIDES[name] // reductions[stage]
        shape = (2, side, side, widths[stage]) if name in CHANNELS_LAST else (2, widths[stage], side, side)
        assert tuple(feature.shape) == shape


def test_checkpointing_changes_neither_output_nor_gradient(name):
    plain, saving = small(name), small(name)
    saving.set_grad_checkpointing()
    outs = [model(images(name)) for model in (plain, saving)]
    torch.testing.assert_close(*outs)
    for out in outs:
        out.square().mean().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    kept = []
    for model in (plain, saving):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            model(images(name))
        kept.append(None)
    first = kept.index(None)
    assert sum(kept[first + 1 : -1]) < sum(kept[:first])


def test_layer_decay_reaches_every_layer(name):
    model = small(name)
    groups = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5).param_groups
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    depths = [min(scale[id(p)] for p in stage.blocks.parameters()) for stage in model.stages]
    modules = dict(model.named_modules())
    assert all(scale[id(modules[conv].weight)] < depths[0] for conv in listed(model.pretrained_cfg["first_conv"]))
    assert depths == sorted(set(depths))
    assert scale[id(model.head.fc.weight)] == 1.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *((name, dict(depths=(2,)), r"has \d entries; give \d, one per stage") for name in NAMES),
        ("crossformerpp_s", dict(num_heads=(2, 4, 8)), r"num_heads=\[2, 4, 8\] has 3 entries; give 4"),
        ("crossformerpp_s", dict(num_heads=(3, 5)), r"num_heads=\[3, 5\] has 2 entries; give 4"),
        ("fastervit_0", dict(num_heads=(2, 4, 8)), r"num_heads=\[2, 4, 8\] has 3 entries; give 2"),
        ("fastervit_0", dict(window_sizes=(7,)), r"window_sizes=\[7\] has 1 entries; give 2"),
        ("fastervit_0", dict(num_heads=(3, 5), embed_dim=16), "64 is not divisible by 3"),
        ("vip_small7", dict(segment_dims=(6, 24, 24)), r"segment_dims=\[6, 24, 24\] has 3 entries; give 2"),
    ],
)
def test_invalid_shapes_are_rejected(name, options, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, **options)


def test_config_composes_to_the_published_model(compose_config, name):
    config = compose_config(f"model={name}", "data=fake")["model"]
    assert config.pop("attention") == {"name": "native"}
    assert config == dict(
        name=name,
        num_classes=None,
        pretrained=False,
        init_from=None,
        freeze=None,
        blocks=None,
        keep=None,
        drop_rate=0.0,
        drop_path_rate=0.0,
    )
