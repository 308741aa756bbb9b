"""Runs that start from pretrained weights with another attention, and their checkpoints."""

import re

import pytest
import timm
import torch

from fvit.attention import get
from fvit.training import Classifier, checkpoint

from .fitting import LENGTH, fit

SHAPE = dict(patch_size=8, embed_dim=24, depth=4, num_heads=3)
RUN = (
    *(f"+model.{key}={value}" for key, value in SHAPE.items()),
    *LENGTH,
    *("model=timm", "model.name=deit_tiny_patch16_224", "attention=linear", "model.keep=[qkv,proj]"),
    *("data=fake", "data.num_images=64", "data.image_size=32", "global_batch_size=16", "logger=none"),
)


@pytest.fixture
def weights(tmp_path):
    """Overrides that name a file of weights, and the weights."""
    torch.manual_seed(1)
    state = timm.create_model("deit_tiny_patch16_224", img_size=32, **SHAPE).state_dict()
    torch.save(state, tmp_path / "deit.pth")
    return ["model.pretrained=true", f"+model.pretrained_cfg_overlay.file={tmp_path / 'deit.pth'}"], state


def classifier(config):
    return Classifier(config["model"], 32, 10, config["optimizer"], config["scheduler"], config["loss"])


def test_model_starts_from_its_file(compose_config, weights):
    overrides, state = weights
    model = classifier(compose_config(*RUN, "model.blocks=2-3", *overrides)).model
    linear = get("linear").__name__
    assert [type(block.attn).__name__ for block in model.blocks] == ["Attention", "Attention", linear, linear]
    ours = model.state_dict()
    assert all(torch.equal(ours[name], state[name]) for name in ours if not name.startswith("head."))


def test_transfer_is_printed_and_the_checkpoint_needs_no_file(compose_config, weights, tmp_path, capsys):
    overrides, _ = weights
    probe = fit(compose_config(*RUN, "model.blocks=1-3", *overrides))
    arrow = f"Attention → {get('linear').__name__}"
    [row] = [line for line in capsys.readouterr().out.splitlines() if arrow in line]
    assert re.split(" {2,}", row.strip()) == ["1-3", arrow, "q, k, v, proj", "–", "–"]
    (tmp_path / "deit.pth").unlink()
    loaded = Classifier.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(images), probe.module.eval()(images))


@pytest.mark.parametrize(
    ("trained", "asked", "same"),
    [
        ("1-3", "[1,2,3]", True),
        ("'1,2-3'", "1-3", True),
        ("null", "null", True),
        ("1-3", "1-2", False),
        ("null", "0-3", False),
        ("[3,1]", "[1,3]", False),
    ],
)
def test_resuming_compares_blocks_however_they_are_written(compose_config, trained, asked, same):
    saved, wanted = (
        classifier(compose_config(*RUN, "attention=softmax", f"model.blocks={b}")) for b in (trained, asked)
    )
    content = {"state_dict": saved.state_dict(), "hyper_parameters": dict(saved.hparams)}
    if same:
        checkpoint.check_fits(content, "a.ckpt", wanted)
    else:
        with pytest.raises(ValueError, match=r"a.ckpt was trained with model.blocks="):
            checkpoint.check_fits(content, "a.ckpt", wanted)


def test_checkpoint_of_version_0_1_with_trim_last_loads(compose_config, tmp_path):
    saved = classifier(compose_config(*RUN, "attention=softmax", "model.keep=[]"))
    parameters = {**saved.hparams, "model": {**saved.hparams.model, "trim_last": True}}
    torch.save(
        {"state_dict": saved.state_dict(), "hyper_parameters": parameters, "pytorch-lightning_version": "2.6.0"},
        tmp_path / "old.ckpt",
    )
    loaded = Classifier.load_from_checkpoint(tmp_path / "old.ckpt", weights_only=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(images), saved.eval()(images))
    assert "trim_last" not in loaded.hparams.model
