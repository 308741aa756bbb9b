"""Classifier and ImageDataModule with a plain Trainer of Lightning, and models of one's own."""

import numpy as np
import pytest
import timm
import torch
import yaml
from lightning import Trainer
from torch import nn

import fvit
from fvit.config.paths import conf_dir
from fvit.data import ImageDataModule
from fvit.data.images import Pixels
from fvit.data.sources.base import Source
from fvit.training import Classifier, arguments, checkpoint

HOST = dict(img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=3, num_classes=10)
MODEL = {"name": "vit_tiny_patch16_224", "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}


class Net(nn.Sequential):
    def __init__(self, outputs=10):
        super().__init__(nn.Flatten(), nn.Linear(3 * 16 * 16, outputs))


def digits(**options):
    return ImageDataModule("digits", img_size=16, batch_size=32, crop_pct=1.0, **options)


def trainer(folder, **options):
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    return Trainer(accelerator="cpu", default_root_dir=folder, max_epochs=1, limit_train_batches=4, **quiet, **options)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Net(), id="a module"),
        pytest.param(
            lambda: fvit.exchange(timm.create_model(MODEL["name"], **HOST), "linear"), id="an exchanged model"
        ),
        pytest.param(lambda: {**MODEL, "attention": {"name": "additive"}}, id="a description"),
    ],
)
def test_a_plain_trainer_fits_tests_and_predicts(tmp_path, make):
    data, model = digits(), make()
    module = Classifier(model, img_size=16, classes=data.classes)
    one = trainer(tmp_path)
    one.fit(module, data)
    [metrics] = one.validate(module, data, verbose=False)
    with pytest.raises(ValueError, match=r"digits has no test images: .* Trainer\.validate"):
        one.test(module, data, verbose=False)
    logits = torch.cat(one.predict(module, data))
    labels = torch.from_numpy(data.source.val.labels)
    assert logits.shape == (360, 10)
    assert metrics["val/acc1"] == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())
    one.save_checkpoint(tmp_path / "a.ckpt")
    given = {"model": make()} if isinstance(model, nn.Module) else {}
    again = Classifier.load_from_checkpoint(tmp_path / "a.ckpt", **given, weights_only=True)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again.eval()(images), module.eval()(images))
    assert again.classes == data.classes


def test_predictions_are_of_the_test_images(tmp_path):
    sets = {"train": {"size": 16}, "val": {"size": 8, "random_offset": 1}, "test": {"size": 9, "random_offset": 2}}
    sets["options"] = {"image_size": [3, 16, 16], "num_classes": 10}
    for resident in (False, True):
        data = ImageDataModule("torchvision", 16, 8, dataset="FakeData", crop_pct=1.0, resident=resident, **sets)
        module = Classifier(Net(), num_classes=10).eval()
        first, second = trainer(tmp_path).predict(module, data)
        [metrics] = trainer(tmp_path).test(module, data, verbose=False)
        labels = torch.from_numpy(data.source.test.labels)
        right = (torch.cat([first, second]).argmax(dim=1) == labels).float().mean().item()
        assert metrics["test/acc1"] == pytest.approx(right)
        assert (len(first), len(second)) == (8, 1)
        pixels = torch.from_numpy(data.source.test.read(0).copy()).permute(2, 0, 1)
        mean, std = (torch.tensor(data.hparams[name]).view(3, 1, 1) for name in ("mean", "std"))
        assert torch.allclose(first[:1], module(((pixels / 255 - mean) / std)[None]), atol=1e-4)


def coloured(classes):
    """A data source of one's own, in which the class tells the colour of an image: two for training and validation."""
    pixels = np.array([np.full((16, 16, 3), COLOURS[name], np.uint8) for name in classes for _ in range(2)])
    images = Pixels(pixels, np.repeat(np.arange(len(classes)), 2))
    return Source(images, images, list(classes))


COLOURS = {"black": 0, "blue": (0, 0, 255), "red": (255, 0, 0)}


class ByColour(nn.Module):
    """Knows the colours in the order of `COLOURS`."""

    def forward(self, x):
        red, _, blue = x.mean(dim=(2, 3)).unbind(1)
        return torch.stack([torch.zeros_like(red), blue, red], dim=1)


def test_classes_are_matched_by_name_without_a_command_as_well(tmp_path, caplog):
    def data(*classes):
        source = {"dataset": f"{__name__}:coloured", "options": {"classes": classes}}
        return ImageDataModule("own", 16, 4, crop_pct=1.0, mean=[0.5] * 3, std=[0.5] * 3, **source)

    module, one = Classifier(ByColour(), classes=list(COLOURS)), trainer(tmp_path)
    for classes, said in (
        (("black", "blue", "red"), ""),
        (("blue", "red"), "evaluated on 2 of 3 outputs, matched by class name"),
        (("red", "blue", "black"), "evaluated on 3 of 3 outputs, matched by class name"),
        (("black", "blue", "red"), ""),
    ):
        caplog.clear()
        [metrics] = one.validate(module, data(*classes), verbose=False)
        assert metrics["val/acc1"] == 1
        assert said in caplog.text
    with pytest.raises(ValueError, match=r"the module has other classes than the data \(missing: black\): build it "):
        one.fit(module, data("blue", "red"))


def test_a_checkpoint_of_a_module_names_it(tmp_path):
    one = trainer(tmp_path)
    one.fit(Classifier(Net(), num_classes=10), digits())
    one.save_checkpoint(tmp_path / "a.ckpt")
    named = checkpoint.read(tmp_path / "a.ckpt")["hyper_parameters"]["model"]
    assert (named["name"], named["module"]) == ("Net", f"{__name__}:Net")
    for load in (fvit.load, Classifier.load_from_checkpoint):
        with pytest.raises(ValueError, match=r"weights of .*:Net, but not how to build it: .*path, model=Net\(…\)"):
            load(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("model", "options", "outputs"),
    [
        (timm.create_model("resnet10t", num_classes=7), {}, 7),
        ({"name": "resnet10t", "num_classes": 6}, {}, 6),
        ({"name": "resnet10t", "num_classes": 6}, {"classes": ["a", "b", "c"]}, 6),
        ({"name": "resnet10t"}, {"classes": ["a", "b", "c"]}, 3),
        (Net(4), {"num_classes": 4}, 4),
    ],
)
def test_the_number_of_classes_follows_from_what_is_given(model, options, outputs):
    assert Classifier(model, **options).num_outputs == outputs


@pytest.mark.parametrize("model", [Net(), {"name": "resnet10t"}])
def test_the_number_of_classes_must_be_known(model):
    with pytest.raises(ValueError, match="num_classes=N must be given: neither classes nor the model "):
        Classifier(model)
    with pytest.raises(ValueError, match="the dataset has 9 classes and the head 7 outputs"):
        Classifier(timm.create_model("resnet10t", num_classes=7), num_classes=9)


@pytest.mark.parametrize(
    ("group", "option", "default"),
    [
        ("optimizer", "adamw", arguments.OPTIMIZER),
        ("scheduler", "cosine", arguments.SCHEDULER),
        ("loss", "cross_entropy", arguments.LOSS),
    ],
)
def test_defaults_are_those_of_the_command_line(group, option, default):
    assert yaml.safe_load((conf_dir() / group / f"{option}.yaml").read_text()) == default
