"""Runs that start from weights: their data configuration, their size, and what their checkpoints need."""

import json

import pytest
import timm
import torch
import yaml
from timm.models import save_for_hf

from fvit.data import ImageDataModule
from fvit.train import warn_of_recipe
from fvit.training import Classifier, checkpoint

from .fitting import LENGTH, fit

TIMM = ("model=timm", "model.name=deit_tiny_patch16_224")
MODEL = ("model.embed_dim=24", "model.depth=2", "model.num_heads=3")
DATA = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.95, "interpolation": "bilinear"}


def preparation(config):
    return {key: config["data"][key] for key in ("img_size", "crop_pct", "interpolation", "mean", "std")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small ViT for images of 48 × 32 px, as timm saves it for the hub."""
    path = tmp_path_factory.mktemp("hub") / "saved"
    shape = dict(patch_size=8, embed_dim=24, depth=2, num_heads=3)
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", img_size=(48, 32), num_classes=10, **shape)
    config = {"label_names": [str(digit) for digit in range(9, -1, -1)]}
    save_for_hf(model, path, config, {**shape, "img_size": (48, 32)}, True, {**DATA, "input_size": (3, 48, 32)})
    return path


# The weights' own data configuration


def test_images_are_prepared_as_for_pretrained_weights(compose_config):
    config = compose_config(*TIMM, "model.name=vit_base_patch32_clip_384", "model.pretrained=true", "data=folder")
    found = preparation(config)
    assert (found["img_size"], found["crop_pct"], round(found["mean"][0], 3)) == (384, 1.0, 0.481)


def test_what_is_set_stays(compose_config):
    given = ("data.img_size=96", "data.mean=[0.1,0.1,0.1]", "data.crop_pct=0.8")
    found = preparation(compose_config(*TIMM, "model.pretrained=true", "data=folder", *given))
    assert (found["img_size"], found["mean"], found["crop_pct"]) == (96, [0.1, 0.1, 0.1], 0.8)
    assert found["std"] == [0.229, 0.224, 0.225]


def test_without_weights_each_dataset_has_its_own(compose_config):
    digits, folder = (preparation(compose_config(f"data={data}")) for data in ("digits", "folder"))
    assert (digits["img_size"], digits["crop_pct"], digits["mean"]) == (32, 1.0, [0.5, 0.5, 0.5])
    assert (folder["img_size"], folder["crop_pct"], folder["mean"]) == (224, 0.875, [0.485, 0.456, 0.406])


def test_images_are_prepared_as_for_a_folder_an_exported_file_and_a_run(compose_config, folder):
    weights = (f"model.name=local-dir:{folder}", "model.pretrained=true")
    assert preparation(compose_config("model=timm", *weights)) == {**DATA, "img_size": [48, 32]}
    for place in (folder, folder / "model.safetensors"):
        assert preparation(compose_config(*MODEL, f"model.init_from={place}")) == {**DATA, "img_size": [48, 32]}


def test_weights_that_are_nowhere_are_reported_when_the_model_is_built(compose_config, tmp_path):
    config = compose_config(f"model.init_from={tmp_path / 'none.ckpt'}")
    assert preparation(config)["img_size"] == 32
    with pytest.raises(FileNotFoundError, match=r"model\.init_from=.*none\.ckpt does not exist"):
        fit(config)


# Recipes


def test_finetuning_is_chosen_in_one_word(compose_config, folder):
    config = compose_config("experiment=finetune", "model.name=deit_small_patch16_224", "data.root=x")
    assert config["model"]["pretrained"] is True
    assert config["model"]["attention"]["name"] == "native"
    assert config["optimizer"]["layer_decay"] == 0.75
    given = (f"model.init_from={folder / 'model.safetensors'}", "model=vit_tiny", "attention=linear")
    config = compose_config("experiment=finetune", *given)
    assert (config["model"]["pretrained"], config["model"]["attention"]["name"]) == (False, "linear")


@pytest.mark.parametrize(
    ("given", "warned"), [([], True), (["experiment=finetune"], False), (["optimizer.lr=1e-4"], False)]
)
def test_recipe_for_random_weights_warns(compose_config, folder, caplog, given, warned):
    start = ("model=timm", f"model.name=local-dir:{folder}", "model.pretrained=true", "data=digits", *given)
    fit(
        compose_config(
            *start,
            "trainer.max_epochs=1",
            "+trainer.limit_train_batches=1",
            "logger=none",
            "callbacks=none",
            "scheduler.warmup_epochs=0",
        )
    )
    assert ("experiment=finetune is one for these" in caplog.text) == warned


@pytest.mark.parametrize(
    ("given", "warned"), [([], True), (["optimizer.layer_decay=0.75"], False), (["model.freeze=backbone"], False)]
)
def test_it_warns_for_weights_of_a_run_as_well(compose_config, folder, caplog, given, warned):
    warn_of_recipe(compose_config(*MODEL, "data=digits", f"model.init_from={folder}", *given))
    assert ("experiment=finetune is one for these" in caplog.text) == warned


# Sizes and sources


def test_run_of_a_folder_needs_it_only_to_start(compose_config, folder, tmp_path, capsys):
    """Its images have another height than width, and its classes another order."""
    copied = tmp_path / "weights"
    copied.mkdir()
    for file in folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    start = ("model=timm", f"model.name=local-dir:{copied}", "model.pretrained=true", "data=digits", *LENGTH)
    still = ("optimizer.lr=1e-30", "optimizer.weight_decay=0", "logger=none", "+trainer.limit_train_batches=1")
    probe = fit(compose_config(*start, *still))
    out = capsys.readouterr().out
    assert "MACs per image of 48 × 32 px" in out
    assert "start      pretrained vit_tiny_patch16_224" in out
    assert probe.data.hparams.img_size == [48, 32]
    source = timm.create_model(f"local-dir:{copied}", pretrained=True).head.weight
    torch.testing.assert_close(probe.module.model.head.weight, source.flip(0), rtol=0, atol=1e-6)
    for file in copied.iterdir():
        file.unlink()
    content = checkpoint.read(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert content["hyper_parameters"]["model"]["name"] == "vit_tiny_patch16_224"
    images = torch.randn(2, 3, 48, 32)
    assert torch.equal(Classifier.restore(content).eval()(images), probe.module.eval()(images))
    # At another size than in training.
    other = Classifier.restore(content, (32, 32)).eval()
    assert other.hparams.img_size == (32, 32)
    assert other(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert other.model.pos_embed.shape[1] == 17


def test_run_starts_from_one_of_another_size_and_attention(compose_config, tmp_path):
    first = (*MODEL, *LENGTH, "data=digits", "data.img_size=[48,32]", "logger=none", "+trainer.limit_train_batches=1")
    fit(compose_config(*first, "attention=aft_full"))
    run = tmp_path / "run"
    again = (*MODEL, "data=digits", f"model.init_from={run}")
    assert compose_config(*again)["data"]["img_size"] == [48, 32]
    saved = checkpoint.read(run / "checkpoints" / "best.ckpt")["state_dict"]
    for attention in ("aft_full", "linear"):
        config = compose_config(*again, f"attention={attention}", "data.img_size=64")
        module = Classifier(config["model"], 64, 10, config["optimizer"], config["scheduler"], config["loss"])
        assert module.model.pos_embed.shape[1] == 64
        assert dict(module.facts())["start"] == f"{run}: {len(saved)} of {len(saved)} weights loaded"
        weight = module.model.blocks[0].attn.qkv.weight
        assert torch.equal(weight, saved["model.blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(("depth", "lacking"), [(4, "; initialised: blocks 2-3"), (1, "; unused: block 1")])
def test_another_depth_is_said_in_short(compose_config, tmp_path, depth, lacking):
    """Which blocks have no counterpart, and the depth that the weights have."""
    saved = compose_config(*MODEL, "data=digits")
    saved = Classifier(saved["model"], 32, 10, saved["optimizer"], saved["scheduler"], saved["loss"])
    content = {"state_dict": saved.state_dict(), "hyper_parameters": dict(saved.hparams), "format": 2}
    torch.save(content, tmp_path / "two.ckpt")
    deeper = compose_config(*MODEL, f"model.depth={depth}", "data=digits", f"model.init_from={tmp_path / 'two.ckpt'}")
    facts = dict(Classifier(deeper["model"], 32, 10).facts())
    assert facts["start"].endswith(f" weights loaded{lacking}")
    words = "block" if depth == 1 else "blocks"
    assert facts["depth"] == f"{depth} {words}, and the weights are of 2: model.depth=2 takes all of them"


def test_exported_file_describes_its_attention(compose_config, folder, tmp_path):
    """A folder of `fvit-export format=safetensors`, whose attention differs from the run's."""
    from fvit.models import build
    from fvit.models.export import ExportModel
    from fvit.models.export.formats import write_safetensors

    shape = dict(name="vit_tiny_patch16_224", patch_size=8, embed_dim=24, depth=2, num_heads=3)
    torch.manual_seed(1)
    model = build(img_size=(48, 32), num_classes=5, attention="gated", **shape).eval()
    exported = ExportModel.of(model, {**shape, "attention": {"name": "gated"}}, (48, 32), list("abcde"), DATA)
    (tmp_path / "out").mkdir()
    write_safetensors(exported, tmp_path / "out")
    parts = {key: compose_config("data=digits")[key] for key in ("optimizer", "scheduler", "loss")}

    def start(**options):
        model = {**shape, "attention": {"name": "native"}, **options}
        return Classifier(model=model, img_size=(32, 48), num_classes=5, classes=list("abcde"), **parts).model

    for found in (
        start(init_from=str(tmp_path / "out"), attention={"name": "gated"}),
        start(name=f"local-dir:{tmp_path / 'out'}", pretrained=True),
    ):
        assert not found.weight_transfer.initialised
        assert torch.equal(found.blocks[1].attn.gate.weight, model.blocks[1].attn.gate.weight)
    softmax = start(name=f"local-dir:{tmp_path / 'out'}", pretrained=True, attention={"name": "softmax"})
    assert torch.equal(softmax.blocks[1].attn.qkv.weight, model.blocks[1].attn.qkv.weight)
    assert softmax.exchange_report[0].dropped == ("gate.weight", "gate.bias")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 48, 32]


# Images that are not square


def test_data_has_the_height_and_width_that_are_asked_for():
    data = ImageDataModule("digits", [48, 32], 8, augment={"transform": {"no_aug": False}})
    assert next(iter(data.train_dataloader())).images.shape == (8, 48, 32, 3)
    assert next(iter(data.val_dataloader())).images.shape == (8, 48, 32, 3)
    resident = ImageDataModule("digits", [48, 32], 8, resident=True, augment={"transform": {"no_aug": False}})
    crops = next(iter(resident.train_dataloader())).images
    assert resident.resident["train"].take(crops, (48, 32)).shape == (8, 48, 32, 3)


def test_a_run_that_resumes_keeps_the_images_that_it_had(compose_config, folder, tmp_path):
    """Without the weights from which it started."""
    started = compose_config(*MODEL, "data=digits", f"model.init_from={folder / 'model.safetensors'}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(started))
    again = compose_config(*MODEL, "data=digits", "ckpt_path=last")
    assert preparation(again) == preparation(started) == {**DATA, "img_size": [48, 32]}
    assert preparation(compose_config(*MODEL, "data=folder", "ckpt_path=last"))["img_size"] == 224


def test_weights_that_were_trained_without_rotary_positions_stay_without(compose_config):
    """In checkpoints of earlier versions softmax attention ignored those of EVA."""
    shape = dict(name="eva02_tiny_patch14_224", patch_size=8, embed_dim=24, depth=2, num_heads=3)
    parts = {key: compose_config("data=digits")[key] for key in ("optimizer", "scheduler", "loss")}
    module = Classifier(model={**shape, "attention": {"name": "softmax"}}, img_size=32, num_classes=5, **parts).eval()
    torch.nn.init.normal_(module.model.blocks[0].attn.mechanism.qkv.weight, std=0.5)
    images = torch.randn(2, 3, 32, 32)
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    turned = module(images)
    assert torch.equal(Classifier.restore({**content, "format": 2}).eval()(images), turned)
    module.model.rope = None
    assert not torch.equal(module(images), turned)
    torch.testing.assert_close(Classifier.restore(content).eval()(images), module(images))
