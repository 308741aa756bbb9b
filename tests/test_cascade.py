"""fvit-cascade: its report equals a cascade that is run image by image."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch

from fvit.cascade import check_same_dataset, evaluate
from fvit.config.errors import ConfigError
from fvit.config.schemas.eval import Cascade, Eval
from fvit.cost import count
from fvit.data import ImageDataModule
from fvit.eval import evaluate as evaluate_alone
from fvit.training import Classifier, checkpoint
from tests.data.pictures import jpeg
from tests.tasks import call_apart, checked, trained, with_classes
from tests.training.fitting import FAKE

DIGITS = ("data=digits", "attention=softmax", "logger=none", "augment=none", "scheduler.warmup_epochs=0")
LARGE = (
    *DIGITS,
    "optimizer.lr=4e-3",
    "model.depth=2",
    "model.embed_dim=48",
    "model.num_heads=3",
    "trainer.max_epochs=10",
)
TINY = (*DIGITS, "model.depth=1", "model.embed_dim=24", "model.num_heads=3", "trainer.max_epochs=1")
# Preprocessing and batch size that differ from the large one's.
TINY_DATA = ("data.img_size=16", "data.crop_pct=0.9", "data.mean=[0.4,0.4,0.4]", "data.eval_batch_size=50")


def evaluated(folder, large, tiny, *overrides):
    return evaluate(checked("cascade", Cascade, f"output_dir={folder}", f"large={large}", f"tiny={tiny}", *overrides))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("large"), *LARGE)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """As large, but hardly trained."""
    short = ("trainer.max_epochs=1", "+trainer.limit_train_batches=1")
    return trained(tmp_path_factory.mktemp("untrained"), *LARGE, *short)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("tiny"), *TINY, *TINY_DATA)


@pytest.fixture(scope="module")
def reported(large, tiny, tmp_path_factory):
    """The run directory of the pair, and the metrics."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, evaluated(folder, large, tiny)


def points(folder):
    with (folder / "cascade.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def opened(run):
    """A checkpoint's model, its validation images one by one, their labels and size."""
    path = checkpoint.find(run)
    data = ImageDataModule(**checkpoint.read(path)["datamodule_hyper_parameters"])
    module = Classifier.load_from_checkpoint(path).eval()
    loaded = data.val_dataloader()
    samples = [loaded.dataset[draw] for draw in loaded.sampler]
    mean, std = (255 * torch.tensor(data.hparams[name]).view(-1, 1, 1) for name in ("mean", "std"))
    images = [((sample.pixels.permute(2, 0, 1).float() - mean) / std)[None] for sample in samples]
    return module, images, [sample.label for sample in samples], data.hparams.img_size


@pytest.mark.slow
def test_curve_equals_a_cascade_run_image_by_image(reported, large, tiny):
    big, big_images, labels, size = opened(large)
    small, small_images, small_labels, small_size = opened(tiny)
    assert (size, small_size, len(labels)) == (32, 16, 360)
    assert labels == small_labels
    curve = points(reported[0])
    costs = count(small.model, 16).macs, count(big.model, 32).macs
    for index in range(2, len(curve), len(curve) // 5):
        # Halfway between two confidences, so that rounding cannot move an image across.
        threshold = (curve[index - 1]["threshold"] + min(1.0, curve[index]["threshold"])) / 2
        right = passed_on = macs = 0
        with torch.no_grad():
            for image, small_image, label in zip(big_images, small_images, labels, strict=True):
                probabilities = small(small_image).softmax(dim=1)[0]
                macs += costs[0]
                if probabilities.max() < threshold:
                    probabilities = big(image)[0]
                    passed_on += 1
                    macs += costs[1]
                right += int(probabilities.argmax()) == label
        assert (curve[index]["passed_on"], curve[index]["right"]) == (passed_on, right)
        assert curve[index]["macs"] == pytest.approx(macs / 360, rel=1e-12)


@pytest.mark.slow
def test_ends_of_the_curve_are_the_models_alone(reported, large, tiny, tmp_path):
    folder, metrics = reported
    first, *_, last = points(folder)
    for run, row, name in ((tiny, first, "tiny"), (large, last, "large")):
        alone = evaluate_alone(checked("eval", Eval, f"output_dir={tmp_path / name}", f"ckpt_path={run}"))["val/acc1"]
        assert row["acc1"] == pytest.approx(alone, abs=1e-7)
        assert metrics[f"cascade/{name}/acc1"] == row["acc1"]
    assert metrics["val/acc1"] == alone, "val/… are the large model's"
    assert (first["share"], last["share"]) == (0, 1)
    assert first["macs"] == metrics["cascade/tiny/macs"]
    assert last["macs"] == metrics["cascade/tiny/macs"] + metrics["cascade/large/macs"]
    assert 0.2 < metrics["cascade/tiny/acc1"] < metrics["cascade/large/acc1"]


@pytest.mark.slow
def test_run_directory_contains_the_report(reported, large, tiny):
    folder, metrics = reported
    saved = json.loads((folder / "metrics.json").read_text())
    assert (saved["status"], saved["metrics"]) == ("finished", metrics)
    content = json.loads((folder / "cascade.json").read_text())
    assert content["images"] == 360
    assert content["as_accurate"]["acc1"] == metrics["cascade/acc1"] >= metrics["cascade/large/acc1"]
    assert content["checkpoints"]["tiny"] == str(tiny / "checkpoints" / "best.ckpt")
    assert (folder / "cascade.html").is_file()
    macs = [point["macs"] for point in points(folder)]
    assert macs == sorted(set(macs))


def photos(folder, num_val, damaged=()):
    """Images of noise in two classes, some of them damaged."""
    for split, images in (("train", 4), ("val", num_val)):
        for index in range(images):
            (folder / split / "37"[index % 2]).mkdir(parents=True, exist_ok=True)
            content = jpeg(40, 40, seed=index)
            broken = split == "val" and index in damaged
            (folder / split / "37"[index % 2] / f"{index:02}.jpg").write_bytes(content[:-300] if broken else content)
    return folder


@pytest.mark.slow
def test_order_of_a_models_outputs_changes_nothing(reported, large, tiny, tmp_path):
    names, order = list("0123456789"), [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    other = with_classes(tiny, tmp_path / "tiny.ckpt", [names[digit] for digit in order], order)
    assert evaluated(tmp_path / "out", large, other) == pytest.approx(reported[1], rel=1e-6)


def test_images_are_compared_by_the_names_of_their_classes():
    def data(classes, labels):
        return SimpleNamespace(
            classes=classes, source=SimpleNamespace(val=SimpleNamespace(labels=torch.tensor(labels).numpy()))
        )

    check_same_dataset({}, {"large": data(["a", "b"], [0, 1, 1]), "tiny": data(["b", "a"], [1, 0, 0])})


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/test_eval.py evaluates on two ranks
def test_two_ranks_report_the_same(large, tiny, tmp_path):
    """With 11 and 12 images per rank, in batches of 5, one of them damaged."""
    overrides = [
        "data.name=folder",
        f"data.root={photos(tmp_path / 'photos', 23, damaged=[4])}",
        "data.eval_batch_size=5",
    ]
    metrics = evaluated(tmp_path / "one", large, tiny, *overrides)
    done = call_apart(
        tmp_path,
        "cascade",
        f"large={large}",
        f"tiny={tiny}",
        "hardware=ddp_cpu",
        *overrides,
        f"hydra.run.dir={tmp_path / 'two'}",
    )
    assert done.stdout.count("as accurate as large") == 1, "one rank prints"
    one, two = points(tmp_path / "one"), points(tmp_path / "two")
    assert json.loads((tmp_path / "two" / "cascade.json").read_text())["images"] == 22
    assert len(one) == len(two) == 23
    for ours, theirs in zip(one, two, strict=True):
        assert ours.pop("threshold") == pytest.approx(theirs.pop("threshold"), abs=1e-5)
        assert ours == theirs
    again = json.loads((tmp_path / "two" / "metrics.json").read_text())["metrics"]
    assert again == pytest.approx(metrics, abs=1e-5)


def test_both_checkpoints_must_be_given():
    with pytest.raises(ConfigError, match="large must be given"):
        checked("cascade", Cascade, "output_dir=here", "tiny=here")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "tiny=.* does not exist"),
        (b"text", r"\(4 bytes\) is not a checkpoint of torch.save or safetensors but text"),
    ],
)
def test_invalid_checkpoint_is_an_error_before_anything_is_written(untrained, tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluated(tmp_path / "out", untrained, tmp_path / "a.ckpt")
    assert not (tmp_path / "out").exists()


def test_datasets_must_be_the_same(untrained, tmp_path):
    other = trained(tmp_path / "other", *FAKE, "logger=none", "+trainer.limit_train_batches=1")
    message = r"the same images .*large=.* has 360 images of 10 classes from digits; tiny=.* has 16 .* from fake"
    with pytest.raises(ValueError, match=message):
        evaluated(tmp_path / "out", untrained, other)
    assert "cascade/acc1" in evaluated(tmp_path / "again", untrained, other, "data.name=digits")


@pytest.mark.slow
def test_images_seen_by_one_model_only_are_an_error(untrained, tiny, tmp_path):
    """Limited to two batches, the large model sees 128 images and the tiny one 100."""
    with pytest.raises(ValueError, match=r"0 only the first, 28 only the second; set data.eval_batch_size"):
        evaluated(tmp_path / "out", untrained, tiny, "+trainer.limit_val_batches=2")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["status"] == "failed"
    metrics = evaluated(tmp_path / "again", untrained, tiny, "+trainer.limit_val_batches=2", "data.eval_batch_size=64")
    assert json.loads((tmp_path / "again" / "cascade.json").read_text())["images"] == 128
    assert metrics["cascade/large/acc1"] == pytest.approx(metrics["val/acc1"], abs=1e-7)


def test_warns_if_the_tiny_model_costs_more(untrained, tiny, tmp_path, caplog):
    metrics = evaluated(tmp_path, tiny, untrained)
    [record] = [record for record in caplog.records if record.name == "fvit.cascade"]
    assert record.levelname == "WARNING"
    assert "M MACs per image, not less than large=" in record.getMessage()
    assert "swap them" in record.getMessage()
    assert metrics["cascade/saved"] < 0
