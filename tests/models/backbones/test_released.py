"""Weights under the authors' names load into the models here.

released/MODEL.txt lists the names and shapes of all tensors in the state dict of the authors' module, with repeated
parts in braces as in a shell.
"""

import itertools
import re
import sys
import types
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from timm.models import _builder

from fvit.models import build

LISTS = {path.stem: path for path in sorted((Path(__file__).parent / "released").glob("*.txt"))}
# Small models with as many blocks as the authors', and so with the same names.
SMALL = {
    "vip_medium7": dict(img_size=28, embed_dims=(16, 32), segment_dims=(4, 16)),
    "casvit_xs": dict(img_size=32, embed_dims=(4, 4, 8, 8)),
    "crossformerpp_s": dict(img_size=32, embed_dim=16, num_heads=(1, 2, 2, 2)),
    "fastervit_3": dict(img_size=32, stem_dim=4, embed_dim=4, num_heads=(2, 2)),
}


def expanded(pattern):
    """a.{0..2}.{b,c} to all names."""
    parts = re.split(r"\{(.*?)\}", pattern)
    for i, choices in enumerate(parts):
        runs = [re.fullmatch(r"(\d+)\.\.(\d+)", choice) for choice in choices.split(",")] if i % 2 else [None]
        named = choices.split(",") if i % 2 else [choices]
        parts[i] = [
            str(number)
            for run, name in zip(runs, named, strict=True)
            for number in (range(int(run[1]), int(run[2]) + 1) if run else [name])
        ]
    return map("".join, itertools.product(*parts))


def listed(name):
    """Names and shapes in the authors' state dict."""
    lines = (line.split() for line in LISTS[name].read_text().splitlines())
    shapes = {pattern: tuple(int(side) for side in re.findall(r"\d+", shape)) for pattern, shape in lines}
    return {full: shape for pattern, shape in shapes.items() for full in expanded(pattern)}


def small(name, **options):
    torch.manual_seed(0)
    shape = {"num_classes": 5, **SMALL[name], **options}
    return build(name, **shape).eval()


def authors_weights(name):
    """The weights of `small(name)` under the authors' names, the model, and images."""
    model = small(name)
    own = model.state_dict()
    new_names = model.from_released({old: old for old in listed(name)})
    weights = {old: own[new].clone() for new, old in new_names.items()}
    size = SMALL[name]["img_size"]
    return weights, model, torch.randn(2, 3, size, size)


def settings():
    """A dict that is pickled as yacs' configuration, which CrossFormer's authors save."""
    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    node = module.CfgNode(MODEL=1)
    node.__dict__["frozen"] = True
    return module, node


@pytest.mark.parametrize("name", LISTS)
def test_every_name_and_shape_of_the_authors_has_its_counterpart(name):
    with torch.device("meta"):
        model = timm.create_model(name)
        released = {old: torch.empty(shape) for old, shape in listed(name).items()}
    loaded = {new: tuple(tensor.shape) for new, tensor in model.from_released(released).items()}
    assert loaded == {new: tuple(tensor.shape) for new, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "name", ["casvit_xs", *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL if name != "casvit_xs")]
)
def test_a_training_checkpoint_of_the_authors_loads_from_a_file(name, tmp_path, monkeypatch):
    weights, model, images = authors_weights(name)
    module, node = settings()
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    wrapped = {f"module.{old}": tensor for old, tensor in weights.items()}
    torch.save({"state_dict": wrapped, "args": Namespace(lr=1), "config": node, "epoch": 3}, tmp_path / "released.pth")
    monkeypatch.undo()
    torch.manual_seed(1)
    overlay = {"file": str(tmp_path / "released.pth"), "num_classes": 5}
    other = build(name, **SMALL[name], num_classes=5, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    torch.testing.assert_close(other(images), model(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_weights_given_directly_load_under_either_name(name):
    weights, model, images = authors_weights(name)
    torch.manual_seed(1)
    for given in (weights, model.state_dict()):
        other = build(name, **SMALL[name], num_classes=5, weights=given).eval()
        assert not other.weight_transfer.initialised
        assert not other.weight_transfer.unused
        torch.testing.assert_close(other(images), model(images), rtol=0, atol=0)


def test_weights_load_from_their_address_with_a_new_head(monkeypatch):
    weights, model, images = authors_weights("fastervit_3")
    asked = []
    monkeypatch.setattr(
        _builder, "load_state_dict_from_url", lambda url, **options: asked.append(url) or {"state_dict": weights}
    )
    other = small("fastervit_3", num_classes=7, pretrained=True)
    assert asked == ["https://huggingface.co/ahatamiz/FasterViT/resolve/main/fastervit_3_224_1k.pth.tar"]
    torch.testing.assert_close(other.forward_features(images), model.forward_features(images), rtol=0, atol=0)
    assert other(images).shape == (2, 7)


@pytest.mark.parametrize("name", ["casvit_xs", "crossformerpp_s", "vip_medium7"])
def test_weights_that_only_a_browser_gets_are_named_with_their_address(name):
    with pytest.raises(ValueError, match=rf"weights of {name} cannot be loaded: .*released at https://.*FILE"):
        small(name, pretrained=True)


@pytest.mark.parametrize(
    ("file", "depths"), [("casvit_xs", (2, 2, 5, 2)), ("casvit_xs", (2, 2, 3, 2)), ("vip_medium7", None)]
)
def test_weights_of_another_size_or_backbone_are_rejected_even_with_a_new_head(tmp_path, file, depths):
    weights, _, _ = authors_weights(file)
    torch.save(weights, tmp_path / "other.pth")
    overlay, shape = {"file": str(tmp_path / "other.pth")}, {"depths": depths} if depths else {}
    with pytest.raises(
        ValueError, match=r"not those of this CasViT: \d+ names .* such as .*; is the file of another size"
    ):
        small("casvit_xs", pretrained=True, pretrained_cfg_overlay=overlay, **shape)


def test_weights_with_names_of_ours_stay_as_they_are():
    larger, model = small("casvit_xs", depths=(2, 2, 5, 2)), small("casvit_xs")
    assert model.from_released(larger.state_dict()).keys() == larger.state_dict().keys()
