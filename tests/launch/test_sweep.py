"""Sweep directories: what became of the jobs, and the same command again."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch.distributed as dist
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from fvit.config.paths import conf_dir
from fvit.launch import staging, sweep
from fvit.launch.record import read_metrics, write_metrics
from tests.tasks import call

SHORT = ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "global_batch_size=16"]
SHORT += ["debug=limit", "trainer.max_epochs=1", "logger=none"]
SWEPT = "hydra.sweep.dir=swept"


def contents(folder="swept"):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def table(done):
    return done.stdout[done.stdout.index("Sweep ") :]


def test_a_sweep_ends_with_a_table_and_survives_failing_jobs(main, tmp_path):
    done = main("train", "-m", *SHORT, "model.num_classes=null,5,-1")
    assert done.returncode == 1
    [folder] = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    head, *rows = re.findall(r"^(?:job|\d+) .*", table(done), flags=re.MULTILINE)
    assert re.split(" {2,}", head) == ["job", "status", "val acc1", "best acc1", "params", "MACs", "images/s", "time"]
    cells = [re.split(" {2,}", row.rstrip()) for row in rows[:3]]
    assert [row[:2] for row in cells] == [
        ["0 model.num_classes=null", "finished"],
        ["1 model.num_classes=5", "failed"],
        ["2 model.num_classes=-1", "failed"],  # refused before it started
    ]
    records = [read_metrics(folder / str(job)) for job in range(3)]
    assert [record["status"] for record in records] == ["finished", "failed", "failed"]
    metrics = records[0]["metrics"]
    assert cells[0][2:4] == [f"{100 * metrics[name]:.2f} %" for name in ("val/acc1", "best/val/acc1")]
    assert cells[0][4] == f"{metrics['cost/params'] / 1e6:.2f} M"
    assert cells[1][2:-1] == cells[2][2:-1] == ["–"] * 5
    assert [row[-1] for row in cells] == [f"{record['seconds']:.0f} s" for record in records]
    assert re.search(r"job 1 +the dataset has 10 classes and the head 5 outputs", table(done))
    assert re.search(r"job 2 +model.num_classes=-1", table(done))
    assert done.stderr.count("error: ") == 2


RESUMED = []
"""The ckpt_path of each job that `fake_train` trained."""


def fake_train(config):
    """Leaves what training leaves in a run directory."""
    RESUMED.append(config["ckpt_path"])
    folder = Path(config["output_dir"])
    (folder / "checkpoints").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "checkpoints" / "last.ckpt", "w") as checkpoint:
        checkpoint.writestr("data", b"")
    staging.publish(folder)
    write_metrics(folder, "finished", {})


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fvit.train.train", fake_train)
        assert call(folder, "train", "-m", *SHORT, "seed=0,1", SWEPT) == 0
    return folder / "swept"


@pytest.fixture
def finished(template, tmp_path, monkeypatch):
    """Two finished jobs in the directory `swept`, and `fake_train` for further ones; returns its files."""
    shutil.copytree(template, tmp_path / "swept")
    monkeypatch.setattr("fvit.train.train", fake_train)
    monkeypatch.chdir(tmp_path)
    RESUMED.clear()
    return contents()


def test_quiet_and_settings_of_hydra_are_no_difference():
    assert sweep._without_hydra(["seed=0", "quiet=true", SWEPT, "+quietly=true"]) == ["seed=0", "+quietly=true"]


@pytest.mark.slow
def test_the_same_command_skips_finished_jobs(main, finished):
    done = main("train", "-m", *SHORT, "seed=0,1,2", SWEPT)
    assert done.returncode == 0
    assert (done.stdout.count("is done"), table(done).count("finished")) == (2, 3)
    assert RESUMED == [None]
    before = {path: content for path, content in finished.items() if path.parts[-1] in ("metrics.json", "last.ckpt")}
    assert len(before) == 4
    assert before.items() <= contents().items()
    done = main("train", "-m", *SHORT, "seed=0,1", SWEPT, "quiet=true")  # quiet is no difference
    assert (done.returncode, done.stdout.count("is done")) == (0, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1,0"], "job 0 of swept was started with seed=0, but this command has seed=1: give the command that"),
        (
            ["attention=additive,softmax", "seed=0,1"],
            "job 0 of swept was started with fewer overrides, but this command has attention",
        ),
        (["seed=0,1", "hydra/sweeper=other"], "is a sweep by hydra._internal"),
    ],
)
def test_a_command_with_other_jobs_is_refused(main, finished, tmp_path, overrides, message):
    (tmp_path / "conf" / "hydra" / "sweeper").mkdir(parents=True)
    (tmp_path / "conf" / "hydra" / "sweeper" / "other.yaml").write_text("_target_: hydra_plugins.other.Sweeper\n")
    done = main("train", "-m", "--config-dir=conf", *SHORT, *overrides, SWEPT)
    assert done.returncode == 1
    assert message in done.stderr
    assert "choose another hydra.sweep.dir" in done.stderr
    assert contents() == finished


def test_job_directories_must_be_numbers(main, tmp_path):
    done = main("train", "-m", *SHORT, "seed=0,1", "hydra.sweep.subdir=${hydra.job.override_dirname}", SWEPT)
    assert done.returncode == 1
    assert "leave hydra.sweep.subdir out" in done.stderr
    assert not (tmp_path / "swept").exists()


def test_a_changed_configuration_is_refused(main, finished):
    path = Path("swept/1/.hydra/config.yaml")
    recorded = yaml.safe_load(path.read_text())
    recorded["optimizer"]["lr"] = 1.0
    path.write_text(yaml.safe_dump(recorded))
    done = main("train", "-m", *SHORT, "seed=0,1", SWEPT)
    assert done.returncode == 1
    assert "job 1 of swept was started with another configuration" in done.stderr
    assert "conf/ was changed in optimizer.lr: restore it, or choose" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["seed=0,1"], "swept/1/.hydra/config.yaml"), (["optimizer.lr=interval(1,2)"], "does not support sweep type")],
)
def test_an_error_during_the_check_is_a_refusal(main, finished, overrides, message):
    Path("swept/1/.hydra/config.yaml").write_text("[cut")
    before = contents()
    done = main("train", "-m", *SHORT, *overrides, SWEPT)
    assert done.returncode == 1
    assert message in done.stderr
    assert contents() == before


def test_a_running_job_is_left_alone(main, finished):
    write_metrics(Path("swept/1"), "running", {})
    before = contents()
    done = main("train", "-m", *SHORT, "seed=0,1", SWEPT)
    assert done.returncode == 1
    assert f"job 1 of swept is running as process {os.getpid()}" in done.stderr
    assert contents() == before


@pytest.mark.slow
def test_a_killed_job_resumes_from_its_checkpoint(main, finished):
    """kill -9 leaves the status `running` of a process that no longer exists."""
    code = "from fvit.launch.record import *; write_metrics(Path('swept/1'), 'running', {})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sweep.Sweep(Path("swept"), []).jobs()[1].record["status"] == "crashed"
    assert main("train", "-m", *SHORT, "seed=0,1", SWEPT).returncode == 0
    assert [str(Path("swept/1/checkpoints/last.ckpt").resolve())] == RESUMED


@pytest.mark.parametrize("status", ["finished", "pruned", "failed", "interrupted", "killed", "running"])
def test_only_completed_jobs_are_skipped(tmp_path, status):
    assert sweep.finished_metrics(tmp_path) is None
    write_metrics(tmp_path, status, {"val/acc1": 0.5})
    assert (sweep.finished_metrics(tmp_path) == {"val/acc1": 0.5}) == (status in ("finished", "pruned"))


def test_jobs_that_were_not_started_are_listed(tmp_path):
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("[seed=0]")
    write_metrics(tmp_path / "0", "finished", {})
    jobs = sweep.Sweep(tmp_path, [["seed=0"], ["seed=1"]]).jobs()
    assert [(job.number, job.overrides, job.record["status"]) for job in jobs] == [
        (0, ["seed=0"], "finished"),
        (1, ["seed=1"], "not started"),
    ]


@pytest.fixture
def leftover_group(tmp_path, monkeypatch):
    """What an earlier job of a sweep may leave behind: a process group of one rank, and rank variables."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_job_in_the_world_of_another_fails(main, leftover_group):
    done = main("train", "-m", *SHORT, "hardware=ddp_cpu", "seed=0")
    assert done.returncode == 1
    assert table(done).count("the run is configured for 2 processes and finds 1") == 1


@pytest.mark.parametrize(
    ("overrides", "jobs", "last"),
    [
        (["sweep=seeds"], 5, ["seed=4"]),
        (["sweep=seeds", "seed=0,1,2"], 3, ["seed=2"]),
        (["sweep=seeds", "attention=additive,softmax"], 10, ["seed=4", "attention=softmax"]),
        (["sweep=lr_per_attention"], 12, ["attention=linear", "optimizer.lr=0.004"]),
        (
            ["sweep=lr_per_attention", "attention=additive,performer", "optimizer.lr=1e-3,3e-3"],
            4,
            ["optimizer.lr=0.003"],
        ),
        (["sweep=lr_per_attention", "seed=0,1,2"], 36, ["seed=2"]),
    ],
)
def test_presets_can_be_overridden(overrides, jobs, last):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = GlobalHydra.instance().hydra.compose_config("train", overrides, RunMode.MULTIRUN)
        planned = sweep.plan(config)
    assert len(planned) == jobs
    assert set(last) <= set(planned[-1])


def test_a_preset_sweeps_without_m(main, monkeypatch):
    monkeypatch.setattr("fvit.train.train", fake_train)
    done = main("train", "sweep=seeds", "seed=0,1", *SHORT, SWEPT)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^1 seed=1 +finished", table(done), flags=re.MULTILINE)
