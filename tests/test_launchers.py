"""Sweeps whose jobs run in other processes: ranks of DDP, and launchers."""

import json
import os
import re
from pathlib import Path

import pytest

import fvit as package

from .test_cli import SHORT, TINY

# Callbacks: one records which process trains with what, one kills it, as the kernel does when memory runs out.
CALLBACKS = """
import json, os, signal, time
from pathlib import Path
from lightning import Callback

class Spy(Callback):
    def on_train_start(self, trainer, module):
        self.noted = {
            "pid": os.getpid(), "parent": os.getppid(), "world": trainer.world_size, "begun": time.time(),
            "lr": module.hparams["optimizer"]["lr"], "dim": module.model.num_features,
        }

    def on_train_end(self, trainer, module):
        path = Path(trainer.default_root_dir) / f"seen-{trainer.global_rank}.json"
        path.write_text(json.dumps({**self.noted, "ended": time.time()}))

class Bomb(Callback):
    def __init__(self, armed):
        self.armed = armed

    def on_train_epoch_start(self, trainer, module):
        fuse = Path(trainer.default_root_dir) / "exploded"
        if self.armed and trainer.current_epoch == 2 and not fuse.exists():
            fuse.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""
SPY = "+callbacks.spy._target_=watchers.Spy"
BOMB = "+callbacks.bomb._target_=watchers.Bomb"


@pytest.fixture
def sweep(fvit, tmp_path):
    """Run fvit-train -m with these callbacks, in the directory `swept`."""
    (tmp_path / "watchers.py").write_text(CALLBACKS)
    paths = os.pathsep.join([str(tmp_path), str(Path(package.__file__).parents[1])])

    def run(*overrides):
        return fvit("train", "-m", *overrides, "hydra.sweep.dir=swept", PYTHONPATH=paths)

    return run


def _statuses(folder):
    jobs = sorted(path for path in folder.iterdir() if path.name.isdigit())
    return [json.loads((job / "metrics.json").read_text())["status"] for job in jobs]


@pytest.mark.slow
@pytest.mark.exhaustive  # test_processes.py validates on three, launch/test_ranks.py has a sweep of two
def test_each_job_of_a_sweep_over_devices_validates_all_images(sweep, main, tmp_path):
    overrides = ["hardware=ddp_cpu", "trainer.devices=1,2", "data.num_images=132", "trainer.limit_val_batches=1.0"]
    done = sweep(*SHORT, *overrides, "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    for job, devices in (("0", 1), ("1", 2)):
        saved = json.loads((tmp_path / "swept" / job / "metrics.json").read_text())
        assert saved["status"] == "finished"
        # Evaluated again in one process, on all 33 images.
        again = main("eval", f"ckpt_path={tmp_path / 'swept' / job / 'checkpoints' / 'last.ckpt'}")
        assert again.returncode == 0, again.stderr
        [*_, latest] = sorted((tmp_path / "logs/eval/runs").iterdir(), key=lambda run: run.stat().st_mtime_ns)
        measured = json.loads((latest / "metrics.json").read_text())["metrics"]
        assert saved["metrics"]["val/acc1"] == measured["val/acc1"]
        assert saved["metrics"]["val/loss"] == pytest.approx(measured["val/loss"], abs=1e-6)
        assert f"{job} trainer.devices={devices} " in done.stdout
    assert "2 × cpu" in done.stdout
    assert not (tmp_path / "logs" / "train").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_jobs_of_a_ddp_grid_run_one_after_another_with_equal_ranks(sweep, tmp_path):
    grid = ["optimizer.lr=1e-3,2e-3", "hardware=ddp_cpu"]
    done = sweep(*SHORT, *grid, SPY)
    assert done.returncode == 0, done.stderr
    seen = [
        [json.loads((tmp_path / "swept" / str(job) / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
        for job in (0, 1)
    ]
    assert [[rank["lr"] for rank in job] for job in seen] == [[1e-3, 1e-3], [2e-3, 2e-3]]
    assert {rank["world"] for job in seen for rank in job} == {2}
    assert len({rank["pid"] for job in seen for rank in job}) == 4
    assert max(rank["ended"] for rank in seen[0]) < min(rank["begun"] for rank in seen[1])
    assert _statuses(tmp_path / "swept") == ["finished", "finished"]
    assert not (tmp_path / "logs").exists()  # where a second sweep would write


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_job_of_submitit_starts_its_ranks(sweep, tmp_path):
    done = sweep(*SHORT, "hydra/launcher=submitit_local", "hardware=ddp_cpu", "optimizer.lr=1e-3", SPY)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [json.loads((tmp_path / "swept" / "0" / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert [(rank["world"], rank["lr"]) for rank in seen] == [(2, 1e-3)] * 2
    assert seen[0]["parent"] == seen[1]["parent"]
    assert _statuses(tmp_path / "swept") == ["finished"]


def _bombed(launcher):
    return [*SHORT, f"hydra/launcher={launcher}", SPY, BOMB, "+callbacks.bomb.armed=1,0"]


def _check_one_was_killed(done, folder):
    assert done.returncode == 1
    assert _statuses(folder) == ["killed", "finished"]
    assert re.search(r"0 \+callbacks.bomb.armed=1 +killed", done.stdout)
    assert re.search(r"job 0 +rank 0 was killed by signal 9, as the kernel does when memory runs out", done.stdout)
    assert re.search(r"1 \+callbacks.bomb.armed=0 +finished", done.stdout)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_killed_isolated_job_does_not_end_the_sweep(sweep, tmp_path):
    _check_one_was_killed(sweep(*_bombed("isolated")), tmp_path / "swept")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    ["isolated", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("joblib", "submitit_local"))],
)
def test_a_killed_job_resumes_when_the_sweep_is_started_again(sweep, tmp_path, launcher):
    folder = tmp_path / "swept"
    _check_one_was_killed(sweep(*_bombed(launcher)), folder)
    kept = (folder / "1" / "metrics.json").stat().st_mtime_ns
    done = sweep(*_bombed(launcher))
    assert done.returncode == 0, done.stdout + done.stderr
    assert _statuses(folder) == ["finished", "finished"]
    assert (folder / "1" / "metrics.json").stat().st_mtime_ns == kept
    if launcher != "submitit_local":  # whose jobs write to files
        assert "epoch 3/3" in done.stdout
        assert "epoch 2/3" not in done.stdout
    pids = {json.loads((folder / job / "seen-0.json").read_text())["pid"] for job in ("0", "1")}
    assert len(pids) == 2


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_that_fail_in_other_processes_are_reported(sweep, tmp_path, launcher):
    done = sweep(*SHORT, f"hydra/launcher={launcher}", "attention=additive,softmax", "model.num_classes=null,5")
    assert done.returncode == 1
    assert _statuses(tmp_path / "swept") == ["finished", "failed", "finished", "failed"]
    table = done.stdout[done.stdout.index("Sweep ") :]
    assert re.findall(r"(\d) attention=(\w+) model.num_classes=\w+ +(\w+)", table) == [
        ("0", "additive", "finished"),
        ("1", "additive", "failed"),
        ("2", "softmax", "finished"),
        ("3", "softmax", "failed"),
    ]
    assert re.search(r"job 3 +the dataset has 10 classes and the head 5 outputs", table)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_joblib_runs_jobs_at_the_same_time(sweep, tmp_path):
    overrides = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "trainer.max_epochs=30", "seed=0,1"]
    done = sweep(*TINY, "scheduler.warmup_epochs=0", *overrides, SPY)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / "swept" / job / "seen-0.json").read_text()) for job in ("0", "1"))
    assert max(first["begun"], second["begun"]) < min(first["ended"], second["ended"])
    assert first["parent"] != second["parent"]


@pytest.mark.slow
def test_a_command_without_metrics_fails_under_a_launcher_as_well(fvit):
    done = fvit("prepare", "-m", "hydra/launcher=joblib", "verify=missing,missing_too")
    assert done.returncode == 1
    assert "missing" in done.stderr
