"""How images were prepared for pretrained weights, wherever these lie."""

import time

import pytest
import timm
import torch
from timm.models import save_for_hf

from fvit.models import build, data_config
from fvit.models.hub import resolved

from .small import SMALL

SHAPE = {name: value for name, value in SMALL.items() if name not in ("img_size", "num_classes")}
DATA = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.95, "interpolation": "bilinear"}


@pytest.fixture
def folder(tmp_path):
    """A small ViT as timm saves it for the hub, and its weights."""
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", **SMALL)
    arguments = {**SHAPE, "img_size": 32}
    save_for_hf(
        model, tmp_path / "saved", {"label_names": list("edcba")}, arguments, True, {**DATA, "input_size": (3, 32, 32)}
    )
    return f"local-dir:{tmp_path / 'saved'}", model.eval()


@pytest.mark.parametrize(
    ("name", "size", "mean", "crop_pct"),
    [
        ("vit_small_patch16_224", 224, 0.5, 0.9),
        ("vit_small_patch16_384.augreg_in21k_ft_in1k", 384, 0.5, 1.0),
        ("vit_small_patch14_dinov2", 518, 0.485, 1.0),
        ("vit_base_patch32_clip_224", 224, 0.48145466, 0.9),
    ],
)
def test_of_a_model_that_timm_knows(name, size, mean, crop_pct):
    found = data_config(name)
    assert (found["img_size"], found["mean"][0], found["crop_pct"]) == (size, mean, crop_pct)
    assert found["interpolation"] == "bicubic"


def test_crop_mode_is_that_of_the_weights():
    assert data_config("fastervit_4_21k_224")["crop_mode"] == "squash"


def test_overlay_replaces_values():
    found = data_config("vit_small_patch16_224", {"mean": (0, 0, 0), "input_size": (3, 96, 128)})
    assert (found["mean"], found["std"], found["img_size"]) == ([0, 0, 0], [0.5, 0.5, 0.5], [96, 128])


def test_wrong_tag_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match=r"no weights vit_small_patch16_224\.nope; it has .*augreg_in1k, .*dino"):
        data_config("vit_small_patch16_224.nope")


def test_of_a_folder_which_also_builds_and_keeps_its_weights(folder):
    name, model = folder
    assert data_config(name) == {**DATA, "img_size": 32, "crop_mode": "center"}
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(build(name, 32, 5, pretrained=True).eval()(images), model(images))
    softmax = build(name, 32, 5, "softmax", pretrained=True).eval()
    torch.testing.assert_close(softmax(images), model(images), rtol=1e-6, atol=1e-6)
    assert build(name, (48, 32), 7, pretrained=True)(torch.randn(2, 3, 48, 32)).shape == (2, 7)


def test_options_of_a_folder_are_resolved_for_checkpoints(folder):
    name, _ = folder
    found = resolved({"name": name, "pretrained": True, "attention": {"name": "linear"}, "embed_dim": 24})
    assert (found["name"], found["depth"], found["attention"]) == ("vit_tiny_patch16_224", 3, {"name": "linear"})
    assert found["pretrained_cfg_overlay"]["source"] == "local-dir"
    assert "pretrained_cfg_overlay" not in resolved({"name": name})
    assert resolved({"name": "vit_tiny_patch16_224"}) == {"name": "vit_tiny_patch16_224"}


@pytest.mark.parametrize("name", ["local-dir:/nowhere", "hub:a/b", "owner/name", "local-dir:"])
def test_unknown_source_is_one_line(name):
    with pytest.raises(ValueError, match="model") as caught:
        data_config(name)
    assert "\n" not in str(caught.value)


def test_hub_out_of_reach_is_one_line_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("fvit.models.hub.hf_hub_url", lambda *args, **options: "http://127.0.0.1:9/file")
    start = time.monotonic()
    for call in (
        lambda: data_config("hf-hub:owner/name"),
        lambda: build("vit_tiny_patch16_224.augreg_in21k", 32, 5, pretrained=True, **SHAPE),
    ):
        with pytest.raises(ValueError, match=r"not in the cache .* cannot be reached") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


def test_files_in_the_cache_need_no_hub(monkeypatch, folder):
    def fail(*args, **options):
        raise AssertionError("the hub was asked")

    path = folder[0].partition(":")[2]
    monkeypatch.setattr("fvit.models.hub.get_hf_file_metadata", fail)
    monkeypatch.setattr("fvit.models.hub.try_to_load_from_cache", lambda *args, **options: path)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda repo_id, filename, **options: f"{path}/{filename}")
    assert data_config("hf-hub:owner/name") == {**DATA, "img_size": 32, "crop_mode": "center"}
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(build("hf-hub:owner/name", 32, 5, pretrained=True).eval()(images), folder[1](images))
