"""Starts that are refused, or interrupted before they train, change nothing in the directory of an earlier run."""

import json
import signal
from pathlib import Path

import pytest
from lightning import Callback

from fvit.config.errors import ConfigError
from tests.tasks import call

TINY = ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "global_batch_size=16"]
ONCE = [*TINY, "trainer.max_epochs=1", "scheduler.warmup_epochs=0"]


class Raise(Callback):
    """Raises an error, or what Ctrl-C raises, in a hook."""

    def __init__(self, hook, error):
        setattr(self, hook, self._raise)
        self.error = error

    def _raise(self, *args, **kwargs):
        raise {"error": RuntimeError, "Ctrl-C": KeyboardInterrupt}[self.error]


def raising(hook, error="error"):
    path = "+callbacks.raise"
    return [f"{path}._target_={__name__}.Raise", f"{path}.hook={hook}", f"{path}.error={error}"]


@pytest.fixture(autouse=True)
def _interruptible():
    """Lightning ignores further Ctrl-C after the first."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


def content(folder: Path):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert call(folder, "train", *ONCE, "hydra.run.dir=run", "quiet=true") == 0
    (folder / "run" / "train.log").write_text("an earlier start\n")
    return folder


# Noticed while composing, while the data are read, in Lightning's set-up, and in the first batch.
REFUSED = {
    "schema": ["optimizer.lr=-1"],
    "data": ["data=folder", "data.root=mising"],
    "checkpoint": ["model.depth=2"],
    "dataloader": ["global_batch_size=5000"],
    "callback's set-up": ["logger=none", "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor"],
    "training": raising("on_train_start"),
    "first batch": raising("on_before_backward"),
    "Ctrl-C in set-up": raising("setup", "Ctrl-C"),
    "Ctrl-C in training": raising("on_train_start", "Ctrl-C"),
    "Ctrl-C in the first batch": raising("on_before_backward", "Ctrl-C"),
    "tensorboard": ["logger=tensorboard", "global_batch_size=5000"],
    "wandb": ["logger=wandb", "global_batch_size=5000"],
    "wandb's options": ["logger=wandb", "logger.wandb.project=a/b"],
    "another directory": ["trainer.max_epochs=1", "ckpt_path=null"],
}


# Where further hooks and loggers are concerned; the others begin and end on the same paths.
RARE = ("dataloader", "training", "Ctrl-C in set-up", "Ctrl-C in training", "tensorboard", "wandb")


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(overrides, marks=[pytest.mark.slow] if name in RARE else [], id=name)
        for name, overrides in REFUSED.items()
    ],
)
def test_refused_start_changes_nothing(finished, overrides, capfd):
    before = content(finished / "run")
    first = [] if "ckpt_path=null" in overrides else ["ckpt_path=run", "trainer.max_epochs=2"]
    last = [*ONCE, "hydra.run.dir=run"] if not first else []
    assert call(finished, "train", *first, *last, *overrides) in (1, 130)
    assert content(finished / "run") == before


@pytest.mark.slow
def test_next_command_works(finished, tmp_path, main):
    call(finished, "train", "ckpt_path=run", "trainer.max_epochs=2", "global_batch_size=5000")
    (tmp_path / "run").symlink_to(finished / "run")
    before = json.loads((finished / "run" / "metrics.json").read_text())
    done = main("eval", "ckpt_path=run")
    assert done.returncode == 0
    assert before["status"] == "finished"


@pytest.mark.parametrize(
    "overrides",
    [
        ["global_batch_size=5000"],
        ["optimizer.opt=adamww"],
        raising("setup"),
        raising("on_fit_start", "Ctrl-C"),
        ["logger=[csv,tensorboard,wandb]", "global_batch_size=5000"],
    ],
    ids=str,
)
def test_refused_start_leaves_no_new_directory(main, tmp_path, overrides):
    assert main("train", *ONCE, "hydra.run.dir=runs/new", *overrides).returncode in (1, 130)
    assert list((tmp_path / "runs").iterdir()) == []


def test_error_in_the_first_batch_of_a_new_run_is_recorded(main, tmp_path):
    assert main("train", *ONCE, "hydra.run.dir=new", *raising("on_before_backward")).returncode == 1
    assert json.loads((tmp_path / "new" / "metrics.json").read_text())["status"] == "failed"
    assert (tmp_path / "new" / "traceback.log").is_file()


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/launch/test_processes.py has ranks that fail before their run begins
def test_refused_ranks_change_nothing_and_leave_no_new_directory(finished, main, tmp_path):
    before = content(finished / "run")
    wrong = ["hardware=ddp_cpu", "global_batch_size=5000"]
    assert call(finished, "train", "ckpt_path=run", "trainer.max_epochs=2", *wrong) == 1
    assert content(finished / "run") == before
    assert main("train", *ONCE, "hydra.run.dir=runs/new", *wrong).returncode == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_refused_evaluation_changes_nothing(finished, main, tmp_path):
    path = f"ckpt_path={finished / 'run'}"
    assert main("eval", path, "hydra.run.dir=measured").returncode == 0
    before = content(tmp_path / "measured")
    for wrong in (["data.name=folder", "data.root=missing"], raising("on_validation_batch_start"), raising("setup")):
        assert main("eval", path, *wrong, "hydra.run.dir=measured").returncode == 1
        assert content(tmp_path / "measured") == before


@pytest.mark.slow
def test_refused_job_of_a_sweep_keeps_its_record(main, tmp_path, monkeypatch):
    command = ("train", "-m", *ONCE, "seed=0", "hydra.sweep.dir=swept")
    assert main(*command).returncode == 0
    job = tmp_path / "swept" / "0"
    record = json.loads((job / "metrics.json").read_text())
    (job / "metrics.json").write_text(json.dumps({**record, "status": "interrupted"}))
    before = content(job)
    monkeypatch.setattr("fvit.train.build_data", _refuse)
    done = main(*command)
    assert (done.returncode, done.stderr) == (1, "error: the disk with the images is gone\n")
    assert content(job) == before


def _refuse(*arguments):
    raise ConfigError("the disk with the images is gone")
