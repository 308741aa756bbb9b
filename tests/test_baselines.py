"""Baselines: one override each, with the figures of docs/baselines.md."""

import re
from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

from fvit.attention import get
from fvit.config.paths import conf_dir
from fvit.cost import count
from fvit.models import attention_spec, build
from fvit.train import train

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "baselines.md").read_text(encoding="utf-8")
TABLE = re.findall(
    r"^\| `(\w+)` \| `(\w+)` \| .*? \| (\d+) \| ([\d.]+) M \| ([\d.]+) G \| ([\d.]+) G \| ([\d.]+) M, ([\d.]+) G \|$",
    TEXT,
    re.MULTILINE,
)
OPTIONS = [row[0] for row in TABLE]
NORMS = {nn.BatchNorm2d: 2, nn.LayerNorm: 5, nn.GroupNorm: 5}
"""MACs that others count per normalised element."""

# Their published MACs were counted in another way.
COUNTED_OTHERWISE = ("vip_small7", "crossformerpp_s", "fastervit_0")

# A small size that all but one accept.
SIZES = {option: 56 if option == "vip_small7" else 64 for option in OPTIONS}


def on_meta(name):
    with torch.device("meta"):
        return timm.create_model(name).eval()


def normalisation(model, size):
    total = 0

    def add(layer, inputs, output):
        nonlocal total
        total += next(cost for kind, cost in NORMS.items() if isinstance(layer, kind)) * output.numel()

    for module in model.modules():
        if isinstance(module, tuple(NORMS)):
            module.register_forward_hook(add)
    model(torch.empty(1, 3, size, size, device="meta"))
    return total


def build_from(config):
    options = dict(config["model"], num_classes=10)
    return build(img_size=config["data"]["img_size"], attention=attention_spec(options.pop("attention")), **options)


def test_all_baselines_are_in_the_table():
    baselines = {
        path.stem
        for path in (conf_dir() / "model").glob("*.yaml")
        if "timm" in yaml.safe_load(path.read_text()).get("defaults", [])
    }
    assert set(OPTIONS) == baselines
    assert len(OPTIONS) == len(baselines)


@pytest.mark.parametrize(("option", "name", "size", "params", "macs_paper", "macs", "printed", "printed_macs"), TABLE)
def test_table_equals_the_count(option, name, size, params, macs_paper, macs, printed, printed_macs):
    model = on_meta(name)
    assert model.pretrained_cfg["input_size"] == (3, int(size), int(size))
    cost = count(model, int(size))
    counted = cost.params / 1e6, cost.macs_paper / 1e9, cost.macs / 1e9
    assert tuple(f"{number:.2f}" for number in counted) == (params, macs_paper, macs)
    assert f"{cost.params / 1e6:.{len(printed.partition('.')[2])}f}" == printed
    if option not in COUNTED_OTHERWISE:
        others = cost.macs + normalisation(model, int(size))
        if option == "convmixer":
            others -= sum(block[0].fn[0].weight.numel() for block in model.blocks) * 32 * 32
        assert abs(others / 1e9 - float(printed_macs)) < 0.01


@pytest.mark.parametrize("option", OPTIONS)
def test_config_names_the_model_of_the_table_with_its_own_attention(compose_config, option):
    config = compose_config(f"model={option}", f"data.img_size={SIZES[option]}")
    assert config["model"]["attention"] == {"name": "native"}
    assert config["model"]["name"] == next(row[1] for row in TABLE if row[0] == option)


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_every_parameter_gets_a_gradient_from_small_images(compose_config, option):
    model = build_from(compose_config(f"model={option}", f"data.img_size={SIZES[option]}")).train()
    logits = model(torch.randn(2, 3, SIZES[option], SIZES[option]))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_trains_on_digits(compose_config, option):
    size = ["data.img_size=28"] if option == "vip_small7" else []
    config = compose_config(f"model={option}", "debug=fdr", "global_batch_size=8", *size)
    assert 0 <= train(config)["val/acc1"] <= 1


def test_attention_of_clip_is_exchangeable(compose_config):
    config = compose_config("model=clip_vit", "attention=additive", "model.blocks=[0,3]", "+model.depth=4")
    model, additive = build_from(config), get("additive").__name__
    assert [type(block.attn).__name__ for block in model.blocks] == [additive, "Attention", "Attention", additive]
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert model.blocks[0].attn.query_logit.grad.any()


@pytest.mark.parametrize("option", ["convmixer", "casvit_s"])  # one of timm, one of ours
def test_attention_of_the_others_is_not(compose_config, option):
    config = compose_config(f"model={option}", "attention=additive", f"data.img_size={SIZES[option]}")
    with torch.device("meta"), pytest.raises(ValueError, match="has no exchangeable attention"):
        build_from(config)
