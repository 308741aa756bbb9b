"""Pretrained weights through timm's own loading, from a file in place of a download."""

import argparse

import numpy as np
import pytest
import timm
import torch

from fvit.models import build

from .small import KINDS, SMALL, host_of, images, kinds

SHAPE = {name: value for name, value in SMALL.items() if name not in ("img_size", "num_classes")}


@pytest.fixture
def file(tmp_path):
    """Weights of a small DeiT with 1000 classes, in the format of DeiT's checkpoints."""

    def save(name="deit_tiny_patch16_224", **options):
        torch.manual_seed(1)
        model = timm.create_model(name, **{**SMALL, "num_classes": 1000, **options})
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        path = tmp_path / f"{name}.pth"
        torch.save({"model": model.state_dict()}, path)
        return {"file": str(path)}, model.state_dict()

    return save


def pretrained(overlay, name="deit_tiny_patch16_224", img_size=32, num_classes=5, **options):
    return build(
        name, img_size, num_classes, pretrained=True, pretrained_cfg_overlay=overlay, **{**SHAPE, **options}
    ).eval()


def test_weights_outside_the_exchange_and_in_keep_come_from_the_file(file):
    overlay, weights = file()
    model = pretrained(overlay, attention="linear", blocks="1-2", keep=["qkv", "proj"])
    assert kinds(model) == ["Attention", "linear", "linear"]
    state = model.state_dict()
    assert [name for name in weights if name not in state or not torch.equal(state[name], weights[name])] == [
        "head.weight",
        "head.bias",
    ]


def test_weights_not_in_keep_are_initialised(file):
    overlay, weights = file()
    state = pretrained(overlay, attention="linear", keep=["v"]).state_dict()
    for index in range(3):
        old, new = (source[f"blocks.{index}.attn.qkv.weight"] for source in (weights, state))
        assert torch.equal(new[48:], old[48:])
        assert new[:48].std() < 0.1 < old[:48].std()
        assert not torch.equal(state[f"blocks.{index}.attn.proj.weight"], weights[f"blocks.{index}.attn.proj.weight"])


@pytest.mark.parametrize("kind", ["distilled", "deit3", "clip", "dinov2", "beit", "eva", "swin"])
def test_every_family_computes_the_same_as_its_checkpoint(file, kind, tmp_path):
    name, options = KINDS[kind]
    original = host_of(kind)
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    model = build(
        name,
        attention="softmax",
        keep=["qkv", "proj"],
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth"), "num_classes": 5},
        **options,
    ).eval()
    torch.testing.assert_close(model(images()), original(images()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.model."])
@pytest.mark.parametrize("key", ["state_dict", "state_dict_ema", None])
def test_weights_of_other_projects_are_read(file, tmp_path, prefix, key):
    _, weights = file()
    content = {f"{prefix}{name}": weight for name, weight in weights.items()}
    further = {"metric": np.float64(0.5), "args": argparse.Namespace(lr=1)}
    torch.save(content if key is None else {**further, key: content}, tmp_path / "other.pth")
    model = pretrained({"file": str(tmp_path / "other.pth")}, num_classes=1000)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert "state_dict" not in model.pretrained_cfg


def test_a_loss_or_a_second_model_beside_the_weights_is_left_out(file, tmp_path):
    overlay, weights = file(depth=3)
    teacher = {f"teacher.{name}": weight + 1 for name, weight in weights.items()}
    for head, beside in (("backbone.head", teacher), ("head", {"criterion.weight": torch.ones(3)})):
        renamed = {f"backbone.{name}".replace("backbone.head", head): weight for name, weight in weights.items()}
        torch.save({"state_dict": renamed | beside}, tmp_path / "lightning.ckpt")
        model = pretrained({"file": str(tmp_path / "lightning.ckpt")}, num_classes=1000)
        assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    with pytest.raises(ValueError, match=r"Unexpected key\(s\) in state_dict: \"blocks\.2\."):
        pretrained(overlay, num_classes=1000, depth=2)
    np.savez(tmp_path / "arrays.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match=r"arrays\.npz is a NumPy archive of a\.npy.*custom_load=true"):
        pretrained({"file": str(tmp_path / "arrays.npz")})


def test_position_embedding_is_resampled_for_another_image_size(file):
    overlay, weights = file()
    model = pretrained(overlay, img_size=48, attention="linear", keep=["qkv"])
    assert model.blocks[0].attn.grid_size == (6, 6)
    assert model.pos_embed.shape[1] == 37
    assert torch.equal(model.pos_embed[:, 0], weights["pos_embed"][:, 0])


def test_error_without_a_network_says_what_to_do(monkeypatch, tmp_path):
    """Through timm and the hub's own client, in its offline mode."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"weights of deit_tiny_patch16_224 cannot be loaded: .* reached.*pretrained=false.*FILE"
    ):
        build("deit_tiny_patch16_224", 32, 5, pretrained=True, **SHAPE)


def test_unpublished_weights_are_reported():
    with pytest.raises(ValueError, match=r"fvit_tiny_patch16_224 cannot be loaded: No pretrained weights exist"):
        build("fvit_tiny_patch16_224", 32, 5, pretrained=True, **SHAPE)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"pretrained_cfg_overlay.file=.*missing.pth does not exist"):
        pretrained({"file": str(tmp_path / "missing.pth")})


def test_file_of_another_model_is_rejected_with_the_first_difference(file):
    overlay, _ = file()
    with pytest.raises(ValueError, match=r"cannot be loaded: .* size mismatch for cls_token"):
        pretrained(overlay, embed_dim=48)


def test_file_without_weights_is_rejected(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(
        ValueError, match=r"deit_tiny_patch16_224 cannot be loaded: .*text\.pth \(10 bytes\) is not a checkp"
    ):
        pretrained({"file": str(tmp_path / "text.pth")})


def test_errors_unrelated_to_weights_are_not_changed(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        build("deit_tiny_patch16_224", 32, 5)
