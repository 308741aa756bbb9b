"""A test split chooses nothing: it is evaluated once, after training, with the weights that the validation chose."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fvit.config.errors import ConfigError
from fvit.config.schemas.eval import Eval
from fvit.data.sources import load
from fvit.eval import evaluate
from fvit.training import checkpoint
from tests.tasks import call_apart, checked, rows_of, trained
from tests.training.fitting import FAKE

SMALL = ("model.depth=1", "model.embed_dim=24", "model.num_heads=3", "attention=softmax", "data.img_size=16")
RECIPE = ("data=folder", "augment=none", "scheduler.warmup_epochs=0", "global_batch_size=20", *SMALL)
SPLIT = ("data.val_split=0.2", "data.test_split=0.25")
LENGTH = ("trainer.max_epochs=3", "optimizer.lr=2e-2", "scheduler=constant", "callbacks.best.mode=min")
SCORES = {"acc1", "acc5", "loss", "balanced_acc", "macro_f1", "ece"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Twenty images each of the digits 0 to 4, in a folder per class."""
    folder, images = tmp_path_factory.mktemp("digits"), load("digits").train
    for label in range(5):
        (folder / str(label)).mkdir()
        for index in np.flatnonzero(images.labels == label)[:20].tolist():
            Image.fromarray(images.read(index)).save(folder / str(label) / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """Its best checkpoint is one of the first, because it counts as best to be wrong."""
    return trained(tmp_path_factory.mktemp("run"), *RECIPE, *SPLIT, *LENGTH, f"data.root={digits}", "logger=csv")


def results(folder):
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def evaluated(folder, *overrides):
    return evaluate(checked("eval", Eval, f"output_dir={folder}", *overrides))


def test_it_is_evaluated_with_the_best_weights(run, tmp_path):
    metrics = results(run)
    assert {name.removeprefix("test/") for name in metrics if name.startswith("test/")} == SCORES
    best = evaluated(tmp_path / "best", f"ckpt_path={run}", "split=test")
    assert best == pytest.approx({name: metrics[name] for name in best}, rel=1e-6)
    last = evaluated(tmp_path / "last", f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}", "split=test")
    weights = [checkpoint.read(run / "checkpoints" / f"{name}.ckpt")["state_dict"] for name in ("best", "last")]
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert last["test/loss"] != best["test/loss"], "or this shows nothing"


def test_the_splits_are_recorded_and_scored(run, tmp_path):
    rows = rows_of(run / "split.csv")
    assert [sum(row["split"] == name for row in rows) for name in ("val", "test", "train")] == [20, 25, 0]
    classes = rows_of(run / "test_classes.csv")
    assert [(row["class"], row["images"]) for row in classes] == [(str(label), "5") for label in range(5)]
    mean = sum(float(row["accuracy"]) for row in classes) / 5
    assert mean == pytest.approx(results(run)["test/balanced_acc"], abs=1e-5)
    assert mean == pytest.approx(results(run)["test/acc1"], abs=1e-5), "the classes have equally many images"
    wrong = sum(int(row["images"]) for row in rows_of(run / "test_confusions.csv"))
    assert wrong == round(25 * (1 - results(run)["test/acc1"]))
    assert not (run / "val_classes.csv").exists()


def test_it_changes_nothing(run, digits, tmp_path):
    """Without a test the run is the same, and another test set does not change what is learnt."""
    for split in ("train", "val"):
        source = load("folder", root=digits, val_split=0.2, test_split=0.25).splits[split]
        for index in range(len(source)):
            place = tmp_path / "data" / split / source.locate(index).removeprefix(f"{digits}/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(source.locate(index))
    config = checkpoint.read(run / "checkpoints" / "last.ckpt")
    again = trained(tmp_path / "run", *RECIPE, *LENGTH, f"data.root={tmp_path / 'data'}", "logger=none")
    other = checkpoint.read(again / "checkpoints" / "last.ckpt")
    assert "test/acc1" not in results(again)
    for name, weight in config["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name
    for name in ("val/acc1", "val/loss", "best/val/acc1"):
        assert results(run)[name] == results(again)[name]


@pytest.mark.slow
def test_a_run_that_ended_in_its_test_repeats_it(run, digits, tmp_path, monkeypatch):
    """With its images on the device, which changes nothing either."""
    options = (*RECIPE, *SPLIT, f"data.root={digits}", "trainer.max_epochs=1", "optimizer.lr=2e-2", "logger=none")
    whole = results(trained(tmp_path / "whole", *options))

    def stop(*_):
        raise KeyboardInterrupt

    folder, options = tmp_path / "stopped", (*options, "data.resident=true")
    with monkeypatch.context() as patch:
        patch.setattr("fvit.callbacks.scores.EvalScores.on_test_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            trained(folder, *options)
    assert json.loads((folder / "metrics.json").read_text())["status"] == "interrupted"
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    resumed = results(trained(folder, *options, f"ckpt_path={folder}"))
    assert before == (folder / "checkpoints" / "last.ckpt").read_bytes()
    for name in [name for name in whole if name.startswith(("test/", "best/", "val/"))]:
        assert resumed[name] == whole[name], name


def test_other_images_in_the_folder_are_noticed(run, digits, tmp_path, caplog):
    root = tmp_path / "more"
    root.mkdir()
    for label in range(5):
        (root / str(label)).mkdir()
        for image in (digits / str(label)).iterdir():
            (root / str(label) / f"new_{image.name}").symlink_to(image)
    metrics = evaluated(tmp_path / "out", f"ckpt_path={run}", f"data.root={root}")
    assert f"{root}: other images are held out than in training" in caplog.text
    caplog.clear()
    every = evaluated(tmp_path / "every", f"ckpt_path={run}", f"data.root={root}", "data.val_split=1")
    assert "held out" not in caplog.text
    assert set(metrics) == set(every)


def test_a_run_with_held_out_images_is_evaluated_on_sets_that_have_none(run, digits, tmp_path, caplog):
    tree = tmp_path / "tree"
    for split in ("train", "val", "test"):
        shutil.copytree(digits, tree / split)
    every = evaluated(tmp_path / "every", f"ckpt_path={run}", "data.val_split=1")
    assert evaluated(tmp_path / "tree-out", f"ckpt_path={run}", f"data.root={tree}") == pytest.approx(every)
    with pytest.raises(
        ConfigError, match=r"probe=knn is fitted to training images, and data\.name=folder has none here"
    ):
        evaluated(tmp_path / "probe", f"ckpt_path={run}", "data.val_split=1", "probe=knn")
    assert not (tmp_path / "probe").exists()
    with pytest.raises(
        ValueError, match="has no class of that name for 5 of the 10"
    ):  # and not an AttributeError: digits have no root
        evaluated(tmp_path / "digits", f"ckpt_path={run}", "data.name=digits")
    assert "held out" not in caplog.text


def test_a_split_that_is_not_there_is_refused(tmp_path):
    fake = trained(tmp_path / "run", *FAKE, "logger=none", "+trainer.limit_train_batches=1")
    with pytest.raises(ValueError, match="split=test: fake has no test images here"):
        evaluated(tmp_path / "out", f"ckpt_path={fake}", "split=test")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/test_processes.py has three processes validate unequal shares
def test_two_processes_find_the_same(run, digits, tmp_path):
    """Of 25 test images the ranks have 12 and 13, in batches of 5."""
    overrides = [f"ckpt_path={run}", "split=test", "data.eval_batch_size=5"]
    done = call_apart(tmp_path, "eval", "hardware=ddp_cpu", *overrides, f"hydra.run.dir={tmp_path / 'two'}")
    expected = {name: value for name, value in results(run).items() if name.startswith("test/")}
    assert results(tmp_path / "two") == pytest.approx(expected, abs=1e-6)
    assert done.stdout.count("Most frequent confusions") == 1


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/test_processes.py trains sharded and validates on two processes
@pytest.mark.parametrize("hardware", ["ddp_cpu", "fsdp"])
def test_training_on_two_processes_tests_the_best_weights(digits, tmp_path, hardware):
    sharded = [
        "hardware=fsdp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.precision=32-true",
        "tf32=false",
        "data.pin_memory=false",
    ]
    where = sharded if hardware == "fsdp" else ["hardware=ddp_cpu"]
    options = [*RECIPE, *SPLIT, f"data.root={digits}", "trainer.max_epochs=2", "optimizer.lr=2e-2", "logger=none"]
    folder = tmp_path / "run"
    call_apart(tmp_path, "train", *options, *where, f"hydra.run.dir={folder}")
    one = evaluated(tmp_path / "one", f"ckpt_path={folder}", "split=test")
    assert {name: results(folder)[name] for name in one} == pytest.approx(one, abs=1e-5)
