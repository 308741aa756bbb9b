"""fvit.load: from a checkpoint, a run, an export or timm to a prediction."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

import fvit
from fvit.config.schemas.export import Export
from fvit.data.inference import find_images, inference_batches
from fvit.data.transforms.picture import PictureTransform
from fvit.export import export
from fvit.training import Classifier, checkpoint
from tests.tasks import checked, trained, with_classes
from tests.training.fitting import FAKE

HOST = dict(img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), *FAKE, "logger=none")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(256, size=(50, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_three_lines_predict_as_fvit_predict_does(run, photo):
    model, transform, classes = fvit.load(run)
    logits = model(transform(photo)[None])
    assert classes[logits.argmax()] in classes
    trained_on = checkpoint.read(checkpoint.find(run))["datamodule_hyper_parameters"]
    [batch] = inference_batches(find_images(photo), trained_on, 1, 0, torch.device("cpu"))
    assert torch.equal(transform(photo), batch.images[0])
    module = Classifier.load_from_checkpoint(checkpoint.find(run)).eval()
    assert torch.equal(logits, module(batch.images))
    assert classes == [str(label) for label in range(10)]
    assert not model.training


@pytest.mark.parametrize("form", ["safetensors", "timm"])
def test_an_exported_directory_and_its_run_agree(run, tmp_path, photo, form):
    if form == "timm":
        run = trained(tmp_path / "softmax", *FAKE, "logger=none", "attention=softmax")
    out = tmp_path / "out"
    export(checked("export", Export, f"ckpt_path={run}", f"format={form}", f"out={out}"))
    (model, transform, classes), (again, transform_again, classes_again) = fvit.load(run), fvit.load(out)
    assert torch.equal(transform(photo), transform_again(photo))
    assert torch.allclose(model(transform(photo)[None]), again(transform_again(photo)[None]), atol=1e-5)
    assert classes == classes_again
    assert fvit.load(f"local-dir:{out}").classes == classes


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_a_pretrained_model_comes_with_its_own_preprocessing(tmp_path, photo, crop_mode):
    host = timm.create_model("vit_tiny_patch16_224", num_classes=3, **HOST)
    data = dict(input_size=(3, 16, 16), mean=(0.1, 0.2, 0.3), std=(1, 1, 1), crop_pct=0.5, interpolation="bilinear")
    data["crop_mode"] = crop_mode
    save_for_hf(host, tmp_path / "mine", {"label_names": ["a", "b", "c"]}, safe_serialization=True, data_config=data)
    model, transform, classes = fvit.load(tmp_path / "mine")
    assert classes == ["a", "b", "c"]
    expected = timm.data.create_transform(**data)(Image.open(photo))
    assert torch.allclose(transform(photo), expected, atol=0.02)  # a grey level, rounded differently
    assert torch.equal(model(expected[None]), host.eval()(expected[None]))


def test_class_names_are_readable(run, tmp_path):
    synsets = [f"n{number}" for number in ("01440764", "01443537", *[f"0148485{digit}" for digit in range(8)])]
    assert fvit.load(with_classes(run, tmp_path / "a.ckpt", synsets)).classes[0] == "n01440764 tench"
    names = ["cat", "dog"]
    content = torch.load(checkpoint.find(run), weights_only=True)
    torch.save({**content, "classes": names}, tmp_path / "b.ckpt")
    assert fvit.load(tmp_path / "b.ckpt").classes[:3] == ["cat", "dog", "class 2"]


def test_every_kind_of_picture_is_the_same(photo):
    transform = PictureTransform(16, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)
    image = Image.open(photo)
    expected = transform(photo)
    assert (expected.shape, expected.dtype) == ((3, 16, 16), torch.float32)
    for picture in (str(photo), photo.read_bytes(), image, np.asarray(image)):
        assert torch.equal(transform(picture), expected)
    grey = io.BytesIO()
    Image.new("L", (20, 30), 255).save(grey, "PNG")
    assert transform(grey.getvalue()).unique().tolist() == [1.0]
    for other in (1.0, np.zeros((4, 4), np.uint16), np.zeros((3, 4, 4), np.uint8)):
        with pytest.raises(TypeError, match=r"a picture is a path, .* uint8 array \[height, width, 3\], not <class"):
            transform(other)
    with pytest.raises(FileNotFoundError):
        transform("nowhere.png")


def test_what_cannot_be_loaded_is_said_in_a_line(run, tmp_path, monkeypatch):
    content = torch.load(checkpoint.find(run), weights_only=True)
    del content["datamodule_hyper_parameters"]
    torch.save(content, tmp_path / "bare.ckpt")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").touch()
    (tmp_path / "empty").mkdir()
    shutil.copytree(tmp_path / "empty", tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"}))
    for where, error, message in (
        ("bare.ckpt", ValueError, "does not say how its images were prepared"),
        ("onnx", ValueError, r"model\.onnx, which is not for PyTorch; export it with format=safetensors"),
        ("empty", FileNotFoundError, "^where=empty has no checkpoint"),
        ("broken", ValueError, "cannot be loaded: No suitable checkpoints found"),
        ("vit_tny_patch16_224", ValueError, "neither a file or directory nor a model of timm, did you mean vit_tiny_"),
        ("me/my_model", ValueError, "on the Hugging Face hub is called hf-hub:USER/NAME"),
        ("fvit_tiny_patch16_224", ValueError, "cannot be loaded: No pretrained weights exist"),
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(error, match=message) as caught:
            fvit.load(where)
        assert "\n" not in str(caught.value)


def test_fvit_has_its_functions_lazily():
    assert {"attention", "count", "exchange", "load"} <= set(dir(fvit))
    assert fvit.attention is sys.modules["fvit.attention"]
    assert fvit.exchange is fvit.models.exchange
    assert fvit.count is fvit.cost.count
    with pytest.raises(AttributeError, match="module 'fvit' has no attribute 'loader'"):
        _ = fvit.loader
