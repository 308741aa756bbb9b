"""fvit-eval on one checkpoint; tests/training/test_checkpoint.py compares its metrics with those of training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.v2.functional import center_crop, five_crop

from fvit.config.errors import ConfigError
from fvit.config.schemas.eval import Eval
from fvit.config.schemas.export import Export
from fvit.data.sources import SOURCES, load
from fvit.data.transforms.image import EvalTransform
from fvit.eval import evaluate
from fvit.eval import load as load_data
from fvit.export import export
from fvit.training.trained import open_trained
from fvit.training.views import VIEWS
from tests.data.pictures import jpeg
from tests.tasks import call_apart, checked, rows_of, trained, with_classes
from tests.training.fitting import FAKE

DIGITS = ("data=digits", "attention=softmax", "logger=none", "augment=none", "scheduler.warmup_epochs=0")
SMALL = ("model.depth=1", "model.embed_dim=24", "model.num_heads=3", "trainer.max_epochs=3", "data.img_size=16")


def evaluated(folder, *overrides):
    return evaluate(checked("eval", Eval, f"output_dir={folder}", *overrides))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), *DIGITS, *SMALL)


def test_metrics_are_returned_and_saved(run, tmp_path, capsys):
    metrics = evaluated(tmp_path, f"ckpt_path={run}")
    names = ("loss", "acc1", "acc5", "balanced_acc", "macro_f1", "ece")
    assert set(metrics) == {f"val/{name}" for name in names}
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert (saved["status"], saved["metrics"]) == ("finished", metrics)
    out = capsys.readouterr().out
    assert str(run / "checkpoints" / "best.ckpt") in out
    assert "Weakest classes" in out
    assert "Most frequent confusions" in out
    rows = rows_of(tmp_path / "val_classes.csv")
    assert np.mean([float(row["accuracy"]) for row in rows]) == pytest.approx(metrics["val/balanced_acc"], abs=1e-5)
    wrong = sum(int(row["images"]) for row in rows_of(tmp_path / "val_confusions.csv"))
    assert wrong == round(360 * (1 - metrics["val/acc1"]))


def test_cascade_has_a_command_of_its_own(run, tmp_path):
    with pytest.raises(ConfigError, match=f"fvit-cascade large={run} tiny=small.ckpt"):
        evaluated(tmp_path / "out", f"ckpt_path={run}", "tiny=small.ckpt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "ckpt_path=.* does not exist"),
        (b"text", r"\(4 bytes\) is not a checkpoint of torch.save or safetensors but text"),
    ],
)
def test_nothing_is_written_without_a_checkpoint(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluated(tmp_path / "out", f"ckpt_path={tmp_path / 'a.ckpt'}")
    assert not (tmp_path / "out").exists()


def test_another_source_replaces_that_of_training(run, tmp_path):
    """The options of the other source are its own: `fake` was given 64 images of 32 pixels."""
    other = trained(tmp_path / "other", *FAKE, "logger=none", "+trainer.limit_train_batches=1")
    assert "val/acc1" in evaluated(tmp_path / "out", f"ckpt_path={other}", "data.name=digits")


def test_a_function_of_ones_own_gives_the_images(run, tmp_path, monkeypatch):
    source = "from fvit.data.sources import load\n\ndef half(share):\n    whole = load('digits')\n"
    source += "    return type(whole)(whole.train, whole.train, whole.classes)\n"
    (tmp_path / "mine_to_evaluate.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    own = ("data.name=own", "data.dataset=mine_to_evaluate:half", "data.options={share: 1}")
    evaluated(tmp_path / "out", f"ckpt_path={run}", *own)
    assert sum(int(row["images"]) for row in rows_of(tmp_path / "out" / "val_classes.csv")) == 1437


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.root=here"], "data.root has no effect with data.name=digits; set data.name=folder as well"),
        (
            ["data.dataset=a:b"],
            r"data.dataset has no effect with data.name=digits; set data.name=own \(or torchvision\)",
        ),
        (["data.name=own"], r"data=own needs data\.dataset: package\.module:function, which returns two or three"),
        (["data.name=digit"], "unknown data source 'digit'; known: digits, folder"),
        (
            ["data.name=folder", "data.root=PHOTOS"],
            "best.ckpt has no class of that name for 2 of the 3 classes .*: a, b",
        ),
    ],
)
def test_unsuitable_data_is_refused_before_anything_is_written(run, tmp_path, overrides, message):
    photos(tmp_path / "photos", 3, classes="a7b")
    overrides = [override.replace("PHOTOS", str(tmp_path / "photos")) for override in overrides]
    with pytest.raises(ValueError, match=message):
        evaluated(tmp_path / "out", f"ckpt_path={run}", *overrides)
    assert not (tmp_path / "out").exists()


DIGITS_IN_ORDER = [str(digit) for digit in range(10)]
MIXED = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The digits 3, 5 and 7 of the validation set as a folder of images."""
    folder, images = tmp_path_factory.mktemp("pictures"), load("digits").val
    for split in ("train", "val"):
        for index in range(90):
            if images.labels[index] in (3, 5, 7):
                place = folder / split / str(images.labels[index])
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images.read(index)).save(place / f"{index}.png")
    return folder


def test_subset_is_evaluated_on_its_own_outputs_and_says_so(run, pictures, tmp_path, capsys):
    folder = ["data.name=folder", f"data.root={pictures}"]
    metrics = evaluated(tmp_path / "out", f"ckpt_path={run}", *folder)
    module, data = load_checkpoint(run, {"name": "folder", "root": str(pictures)})
    images, _ = data.batch_transform(data.val_images(range(len(data.source.val))), False, torch.float32)
    with torch.no_grad():
        logits = module.eval()(images)[:, [3, 5, 7]]
    labels = torch.tensor(data.source.val.labels)
    assert metrics["val/acc1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert metrics["val/loss"] == pytest.approx(F.cross_entropy(logits, labels.long()).item(), rel=1e-4)
    assert metrics["val/acc5"] == 1
    assert "3 of the model's 10, and the accuracies compare these outputs alone; matched by name: 3, 5, 7" in (
        capsys.readouterr().out
    )
    # From a model with its outputs in another order, the same.
    other = with_classes(run, tmp_path / "a.ckpt", [DIGITS_IN_ORDER[digit] for digit in MIXED], MIXED)
    assert evaluated(tmp_path / "again", f"ckpt_path={other}", *folder) == pytest.approx(metrics, rel=1e-6)


def test_order_of_the_outputs_changes_nothing(run, tmp_path, capsys):
    metrics = evaluated(tmp_path / "out", f"ckpt_path={run}")
    assert "matched by name" not in capsys.readouterr().out
    other = with_classes(run, tmp_path / "a.ckpt", [DIGITS_IN_ORDER[digit] for digit in MIXED], MIXED)
    assert evaluated(tmp_path / "again", f"ckpt_path={other}") == pytest.approx(metrics, rel=1e-6)
    assert "those of the model in another order; matched by name: 0, 1, 2" in capsys.readouterr().out


def test_renamed_class_is_refused_and_unrecorded_names_are_not(run, tmp_path, caplog):
    renamed = with_classes(run, tmp_path / "a.ckpt", [*DIGITS_IN_ORDER[:-1], "nine"])
    with pytest.raises(ValueError, match=r"a\.ckpt has no .* 1 of the 10 classes .*: 9\. Its 10 classes are 0, 1"):
        evaluated(tmp_path / "out", f"ckpt_path={renamed}")
    unnamed = with_classes(run, tmp_path / "b.ckpt", None)
    assert evaluated(tmp_path / "again", f"ckpt_path={unnamed}")["val/acc1"] > 0
    assert "b.ckpt records no names of classes" in caplog.text


def load_checkpoint(run, asked):
    trained = open_trained(run, None)
    return trained.module, load_data(trained, asked)


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    """The run's model as a folder for timm, with its classes in another order."""
    folder = tmp_path_factory.mktemp("published")
    with_classes(run, folder / "a.ckpt", [DIGITS_IN_ORDER[digit] for digit in MIXED], MIXED)
    export(checked("export", Export, f"ckpt_path={folder / 'a.ckpt'}", "format=timm", f"out={folder / 'out'}"))
    return folder / "out"


def test_published_weights_are_evaluated_with_their_own_preprocessing(run, published, tmp_path, capsys):
    expected = evaluated(tmp_path / "out", f"ckpt_path={run}")
    metrics = evaluated(tmp_path / "again", f"pretrained=local-dir:{published}", "data.name=digits")
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert "those of the model in another order; matched by name: 0, 1, 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pretrained=vit_tiny_patch16_224"], "vit_tiny_patch16_224 has no dataset of its own: set data.name"),
        (["pretrained=vit_tinny_patch16_224"], "vit_tinny"),
        (["pretrained=vit_small_patch14_dinov2.lvd142m"], "has no classifier: finetune it, fvit-train model=timm"),
        (["pretrained=local-dir:/nowhere"], "nowhere"),
    ],
)
def test_models_that_cannot_be_evaluated_are_refused(tmp_path, overrides, message, monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *arguments, **options: None)
    with pytest.raises(ValueError, match=message):
        evaluated(tmp_path / "out", *overrides)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "ckpt_path must be given: ckpt_path=… .*, or pretrained=…"),
        (["ckpt_path=a", "pretrained=b"], "pretrained=b has no effect with ckpt_path=a: leave one of them out"),
        (["ckpt_path=a", "tta=3crop"], "tta='3crop': input should be 'flip', '5crop' or '10crop'"),
    ],
)
def test_one_model_is_needed(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        evaluated(tmp_path / "out", *overrides)


@pytest.mark.parametrize("tta", ["flip", "5crop", "10crop"])
def test_views_are_averaged(run, tmp_path, capsys, tta):
    crops, flip = VIEWS[tta]
    metrics = evaluated(tmp_path / "out", f"ckpt_path={run}", f"tta={tta}", "data.crop_pct=0.8")
    assert f"{crops * (1 + flip)} per image, averaged" in capsys.readouterr().out
    module, data = load_checkpoint(run, {"crop_pct": 0.8})
    transform = EvalTransform(data.decoder, 16, 0.8)
    pixels = torch.stack([transform.resized(data.source.val.read(index)) for index in range(360)]).permute(0, 3, 1, 2)
    crops = five_crop(pixels, [16, 16]) if crops == 5 else [center_crop(pixels, [16, 16])]
    views = [*crops, *([crop.flip(-1) for crop in crops] if flip else [])]
    with torch.no_grad():
        found = torch.stack([module.eval()(view / 127.5 - 1).softmax(1) for view in views]).mean(0)
    labels = torch.tensor(data.source.val.labels).long()
    assert metrics["val/acc1"] == pytest.approx((found.argmax(1) == labels).float().mean().item(), abs=1e-6)
    assert metrics["val/loss"] == pytest.approx(F.nll_loss(found.log(), labels).item(), rel=1e-4)


def test_real_labels_are_scored(tmp_path, run, monkeypatch):
    """Every image with an even index has its predecessor's class as well, and every third one no label."""
    source = load("digits")
    real = [
        [] if index % 3 == 0 else [int(label), int(source.val.labels[index - 1])]
        for index, label in enumerate(source.val.labels)
    ]
    monkeypatch.setitem(SOURCES, "digits", lambda: replace(source, real=real))
    metrics = evaluated(tmp_path / "out", f"ckpt_path={run}")
    module, data = load_checkpoint(run, {})
    images, _ = data.batch_transform(data.val_images(range(360)), False, torch.float32)
    with torch.no_grad():
        predicted = module.eval()(images).argmax(1).tolist()
    right = [label in real[index] for index, label in enumerate(predicted) if real[index]]
    assert metrics["val/real_acc1"] == pytest.approx(np.mean(right), abs=1e-6)
    assert metrics["val/real_acc1"] > metrics["val/acc1"]


def photos(folder, num_val, damaged=(), classes="37"):
    """Images of noise; the damaged ones cannot be decoded."""
    for split, images in (("train", len(classes)), ("val", num_val)):
        for index in range(images):
            place = folder / split / classes[index % len(classes)]
            place.mkdir(parents=True, exist_ok=True)
            content = jpeg(40, 40, seed=index)
            broken = split == "val" and index in damaged
            (place / f"{index:02}.jpg").write_bytes(content[:-300] if broken else content)
    return folder


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/test_processes.py has three, and tests/test_cascade.py a damaged image
def test_two_processes_with_unequal_shares_find_the_same(run, tmp_path):
    """Of 23 images the ranks have 11 and 12, in batches of 5, and one image is damaged."""
    root = photos(tmp_path / "photos", 23, damaged=[4])
    overrides = [f"ckpt_path={run}", "data.name=folder", f"data.root={root}", "data.eval_batch_size=5"]
    metrics = evaluated(tmp_path / "one", *overrides)
    done = call_apart(tmp_path, "eval", "hardware=ddp_cpu", *overrides, f"hydra.run.dir={tmp_path / 'two'}")
    assert done.stdout.count("val/acc1") == 1, "one process prints"
    assert done.stderr.count("1 images could not be read") + done.stdout.count("1 images could not be read") == 1
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["metrics"] == pytest.approx(metrics, abs=1e-5)
