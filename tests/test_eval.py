"""fvit-eval on one checkpoint; tests/training/test_checkpoint.py compares its metrics with those of training."""

import json
import os
import subprocess
import sys

import pytest

from fvit.config.errors import ConfigError
from fvit.config.schemas.eval import Eval
from fvit.eval import evaluate
from tests.data.pictures import jpeg
from tests.tasks import checked, trained
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
    assert set(metrics) == {"val/loss", "val/acc1", "val/acc5"}
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert (saved["status"], saved["metrics"]) == ("finished", metrics)
    assert str(run / "checkpoints" / "best.ckpt") in capsys.readouterr().out


def test_cascade_has_a_command_of_its_own(run, tmp_path):
    with pytest.raises(ConfigError, match=f"fvit-cascade large={run} tiny=small.ckpt"):
        evaluated(tmp_path / "out", f"ckpt_path={run}", "tiny=small.ckpt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "ckpt_path=.* does not exist"), (b"text", r"\(4 bytes\) is truncated or not a checkpoint")],
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.root=here"], "data.root has no effect with data.name=digits; set data.name=folder as well"),
        (["data.name=digit"], "unknown data source 'digit'; known: digits, folder"),
        (["data.name=folder", "data.root=PHOTOS"], "the dataset has 11 classes and the model 10 outputs"),
    ],
)
def test_unsuitable_data_is_refused_before_anything_is_written(run, tmp_path, overrides, message):
    photos(tmp_path / "photos", 11, classes="abcdefghijk")
    overrides = [override.replace("PHOTOS", str(tmp_path / "photos")) for override in overrides]
    with pytest.raises(ValueError, match=message):
        evaluated(tmp_path / "out", f"ckpt_path={run}", *overrides)
    assert not (tmp_path / "out").exists()


def photos(folder, num_val, damaged=(), classes="ab"):
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
def test_two_processes_with_unequal_shares_find_the_same(run, tmp_path):
    """Of 23 images the ranks have 11 and 12, in batches of 5, and one image is damaged."""
    root = photos(tmp_path / "photos", 23, damaged=[4])
    overrides = [f"ckpt_path={run}", "data.name=folder", f"data.root={root}", "data.eval_batch_size=5"]
    metrics = evaluated(tmp_path / "one", *overrides)
    done = subprocess.run(
        [sys.executable, "-m", "fvit.eval", "hardware=ddp_cpu", *overrides, f"hydra.run.dir={tmp_path / 'two'}"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("val/acc1") == 1, "one process prints"
    assert done.stderr.count("1 images could not be read") + done.stdout.count("1 images could not be read") == 1
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["metrics"] == pytest.approx(metrics, abs=1e-5)
