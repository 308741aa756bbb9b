"""Training and evaluation give the same results on one, two and three processes, over gloo."""

import csv
import json

import pytest
import torch

from fvit.training import Classifier
from tests import tasks

DIGITS = (
    *("data=digits", "attention=additive", "model.embed_dim=24", "model.depth=2", "model.num_heads=3"),
    *("scheduler.warmup_epochs=0", "trainer.max_epochs=1", "trainer.log_every_n_steps=1", "global_batch_size=64"),
)
AUGMENTED = ("augment=deit", "model.drop_path_rate=0")
MIN_LR = 3e-4

FSDP = (
    *("hardware=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true", "tf32=false"),
    "data.pin_memory=false",
)


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command line, which starts further processes if its hardware has several; returns the run directory."""

    def call(task, name, *overrides):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        code = tasks.call(tmp_path, task, f"hydra.run.dir={tmp_path / name}", *overrides)
        assert code == 0, capfd.readouterr().err
        return tmp_path / name

    return call


def column(folder, name):
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def final_rate(folder):
    [optimizer] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
    return max(group["lr"] for group in optimizer["param_groups"])


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())["metrics"]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(run, monkeypatch):
    """22 steps with all augmentations, averaged weights, 2 × 2 micro batches per step, and no dropout.

    They start in a SLURM job of one task, as after `srun --pty bash`: Lightning would assume a world of one process.
    """
    same = (*DIGITS, *AUGMENTED, f"scheduler.min_lr={MIN_LR}", "callbacks=[default,ema]", "callbacks.ema.decay=0.6")
    alone = run("train", "alone", *same)
    losses = column(alone, "train/loss")
    assert len(losses) == 22
    assert len(set(losses)) == 22
    job = {"NTASKS": "1", "NNODES": "1", "NODELIST": "127.0.0.1", "JOB_ID": "77", "JOB_NAME": "train"}
    for name, value in {**job, "PROCID": "0", "NODEID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    together = run("train", "together", *same, "hardware=ddp_cpu", "micro_batch_size=16")
    assert len(torch.load(together / "checkpoints" / "last.ckpt", weights_only=True)["rank_states"]) == 2
    assert column(together, "train/loss") == pytest.approx(losses, abs=2e-5)
    assert column(together, "lr") == pytest.approx(column(alone, "lr"), rel=1e-9)
    # The column holds the learning rates of the 22 updates; the next one is the minimum of the schedule.
    assert [final_rate(folder) for folder in (alone, together)] == pytest.approx([MIN_LR, MIN_LR], rel=1e-9)
    for metric in ("train/acc1", "val/loss", "val/acc1", "val_raw/acc1"):
        assert metrics(together)[metric] == pytest.approx(metrics(alone)[metric], abs=1e-4), metric


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # Lightning: best checkpoint elsewhere
def test_fsdp_learns_what_one_device_learns_and_either_resumes_from_the_other(run):
    """With clipped gradients, micro batches of a quarter, and activation checkpointing under FSDP."""
    short = (*DIGITS, "trainer.gradient_clip_val=0.5", "+trainer.limit_train_batches=3")
    alone = run("train", "alone", *short)
    accumulated = ("micro_batch_size=16", "+trainer.limit_train_batches=6")
    shards = run("train", "shards", *short[:-1], *accumulated, *FSDP)
    assert column(shards, "train/loss") == pytest.approx(column(alone, "train/loss"), abs=2e-5)
    weights = [
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for folder in (alone, shards)
    ]
    torch.testing.assert_close(weights[1], weights[0], atol=2e-5, rtol=0)
    assert Classifier.load_from_checkpoint(shards / "checkpoints" / "last.ckpt", weights_only=True)
    measured = metrics(run("eval", "eval", f"ckpt_path={shards / 'checkpoints' / 'last.ckpt'}"))
    assert measured["val/acc1"] == metrics(shards)["val/acc1"]

    short = (*short, "trainer.max_epochs=2")
    alone_after = run("train", "alone-after-shards", *short, f"ckpt_path={shards}")
    shards_after = run("train", "shards-after-alone", *short, *FSDP, f"ckpt_path={alone}", "grad_checkpointing=true")
    assert len(column(alone_after, "train/loss")) == 3
    assert column(shards_after, "train/loss") == pytest.approx(column(alone_after, "train/loss"), abs=2e-5)


@pytest.mark.slow
@pytest.mark.exhaustive  # they are torch's own
@pytest.mark.parametrize(
    ("option", "size"),
    [("ddp.static_graph=true", 32), ("ddp.gradient_as_bucket_view=false", 16)],
    ids=str,
)
def test_options_of_ddp_do_not_change_what_is_learnt(run, option, size):
    """One with accumulation, during which DDP does not reduce gradients."""
    short = (*DIGITS, f"+trainer.limit_train_batches={96 // size}", "hardware=ddp_cpu", f"micro_batch_size={size}")
    plain, changed = run("train", "plain", *short), run("train", "changed", *short, option)
    assert len(column(plain, "train/loss")) == 3
    assert column(changed, "train/loss") == pytest.approx(column(plain, "train/loss"), abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.exhaustive), 3])
def test_each_image_is_evaluated_once_on_any_number_of_ranks(run, ranks):
    # 35 validation images, not divisible by ranks or batches of 4.
    shape = ("data=fake", "data.num_images=140", "model.embed_dim=24", "model.depth=1", "global_batch_size=16")
    trained = run("train", "run", *shape, "debug=limit")
    overrides = [f"ckpt_path={trained}", "data.eval_batch_size=4"]
    one = metrics(run("eval", "one", *overrides))
    several = metrics(run("eval", "several", *overrides, "hardware=ddp_cpu", f"trainer.devices={ranks}"))
    assert (round(one["val/acc1"] * 35, 4) % 1, len(one)) == (0, 6)
    assert (several["val/acc1"], several["val/acc5"]) == (one["val/acc1"], one["val/acc5"])
    assert several["val/loss"] == pytest.approx(one["val/loss"], rel=1e-6)
