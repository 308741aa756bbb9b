"""A sweep's folder: what became of its jobs, and the same command once more."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from fvit.config.paths import conf_dir
from fvit.launch import sweep
from fvit.launch.run_dir import read_metrics, write_metrics

SHORT = ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "global_batch_size=16"]
SHORT += ["debug=limit", "trainer.max_epochs=1", "logger=none"]
AGAIN = "hydra.sweep.dir=swept"


def _contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def _table(done):
    return done.stdout[done.stdout.index("Sweep ") :]


def _check_figures(table, records):
    """Hold the columns behind the status against what the jobs have written."""
    head, *rows = re.findall(r"^(?:job|\d) .*(?:status|finished|failed) +(.*\S)", table, flags=re.MULTILINE)
    assert re.split(" {2,}", head) == ["val acc1", "best acc1", "params", "MACs", "images/s", "time"]
    for row, record in zip(rows, records, strict=True):
        figures, *accuracies = re.split(" {2,}", row), *("val/acc1", "best/val/acc1")
        if record["status"] == "finished":
            assert figures[:2] == [f"{100 * record['metrics'][name]:.2f} %" for name in accuracies]
            assert figures[2] == f"{record['metrics']['cost/params'] / 1e6:.2f} M"
        else:
            assert figures[:-1] == ["–"] * 5
        assert figures[-1] == f"{record['seconds']:.0f} s"


def test_a_sweep_ends_with_a_table_and_survives_failing_jobs(main, tmp_path):
    done = main("train", "-m", *SHORT, "attention=additive,softmax", "model.num_classes=null,5,-1")
    assert done.returncode == 1
    [folder] = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    table = _table(done)
    statuses = re.findall(r"(\d) attention=(\w+) model.num_classes=(\S+) +(\w+)", table)
    assert statuses == [
        ("0", "additive", "null", "finished"),
        ("1", "additive", "5", "failed"),
        ("2", "additive", "-1", "failed"),  # refused before it began, and still a job of the sweep
        ("3", "softmax", "null", "finished"),
        ("4", "softmax", "5", "failed"),
        ("5", "softmax", "-1", "failed"),
    ]
    assert [read_metrics(folder / job)["status"] for job, *_ in statuses] == [status for *_, status in statuses]
    _check_figures(table, [read_metrics(folder / job) for job, *_ in statuses])
    assert "debug=limit" not in table  # all have it
    assert re.search(r"job 1 +the dataset has 10 classes and the head 5 outputs", table)
    assert re.search(r"job 2 +model.num_classes=-1", table)
    assert done.stderr.count("error: ") == 4


@pytest.mark.slow
def test_the_same_command_skips_what_is_done(main):
    command = ["train", "-m", *SHORT, "seed=0,1", AGAIN]
    assert main(*command).returncode == 0
    before = {job: _contents(f"swept/{job}") for job in (0, 1)}
    done = main(*command)
    assert done.returncode == 0
    assert "epoch 1/1" not in done.stdout
    assert (done.stdout.count("is done"), _table(done).count("finished")) == (2, 2)
    assert {job: _contents(f"swept/{job}") for job in (0, 1)} == before
    done = main("train", "-m", *SHORT, "seed=0,1,2", AGAIN)
    assert done.returncode == 0
    assert (done.stdout.count("is done"), _table(done).count("finished")) == (2, 3)
    assert "epoch 1/1" in done.stdout
    done = main("train", "-m", *SHORT, "seed=0,1,2", AGAIN, "quiet=true")  # how it is told is not what it is
    assert (done.returncode, done.stdout.count("is done")) == (0, 3)


@pytest.fixture
def finished(main):
    """Two jobs in the folder `swept`; returns what its files hold."""
    assert main("train", "-m", *SHORT, "seed=0,1", AGAIN).returncode == 0
    return _contents("swept")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1,0"], "job 0 of swept began with seed=0, where this command says seed=1: give the command that began"),
        (
            ["attention=additive,softmax", "seed=0,1"],
            "job 0 of swept began with less, where this command says attention",
        ),
        (["seed=0,1", "hydra/sweeper=other"], "is a sweep by hydra._internal"),
    ],
)
def test_a_command_by_which_numbers_mean_other_jobs_is_refused(main, finished, tmp_path, overrides, message):
    (tmp_path / "conf" / "hydra" / "sweeper").mkdir(parents=True)
    (tmp_path / "conf" / "hydra" / "sweeper" / "other.yaml").write_text("_target_: hydra_plugins.other.Sweeper\n")
    done = main("train", "-m", "--config-dir=conf", *SHORT, *overrides, AGAIN)
    assert done.returncode == 1
    assert message in done.stderr
    assert "or choose another hydra.sweep.dir" in done.stderr or ": choose another hydra.sweep.dir" in done.stderr
    assert _contents("swept") == finished


def test_folders_by_another_name_than_their_number_are_refused(main, tmp_path):
    done = main("train", "-m", *SHORT, "seed=0,1", "hydra.sweep.subdir=${hydra.job.override_dirname}", AGAIN)
    assert done.returncode == 1
    assert "leave hydra.sweep.subdir out" in done.stderr
    assert not (tmp_path / "swept").exists()


def test_machines_that_each_compose_do_not_sweep(main):
    done = main("train", "-m", *SHORT, "hardware=ddp_cpu", "trainer.num_nodes=2", "seed=0,1")
    assert done.returncode == 1
    assert done.stderr.count("each machine would sweep for itself") == 2
    assert "start it with torchrun" in done.stderr


def test_a_configuration_that_was_edited_since_is_refused(main, finished):
    path = Path("swept/1/.hydra/config.yaml")
    noted = yaml.safe_load(path.read_text())
    noted["optimizer"]["lr"] = 1.0
    path.write_text(yaml.safe_dump(noted))
    done = main("train", "-m", *SHORT, "seed=0,1", AGAIN)
    assert done.returncode == 1
    assert "job 1 of swept began with another configuration" in done.stderr
    assert "conf/ was changed in optimizer.lr: restore it, or choose" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["seed=0,1"], "swept/1/.hydra/config.yaml"), (["optimizer.lr=interval(1,2)"], "does not support sweep type")],
)
def test_what_hinders_the_look_is_no_permission(main, finished, overrides, message):
    Path("swept/1/.hydra/config.yaml").write_text("[cut")
    before = _contents("swept")
    done = main("train", "-m", *SHORT, *overrides, AGAIN)
    assert done.returncode == 1
    assert message in done.stderr
    assert _contents("swept") == before


def test_a_job_that_still_runs_is_left_alone(main, finished):
    write_metrics(Path("swept/1"), "running", {})
    before = _contents("swept")
    done = main("train", "-m", *SHORT, "seed=0,1", AGAIN)
    assert done.returncode == 1
    assert f"job 1 of swept is running as process {os.getpid()}" in done.stderr
    assert _contents("swept") == before


def test_a_job_that_was_cut_goes_on_from_its_checkpoint(main, finished, monkeypatch):
    """kill -9 leaves `running` behind, by a process that is no more."""
    code = "from fvit.launch.run_dir import *; write_metrics(Path('swept/1'), 'running', {})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sweep.Sweep(Path("swept"), []).jobs()[1].record["status"] == "crashed"
    resumed = []

    def work(config):
        resumed.append(config["ckpt_path"])
        write_metrics(Path(config["output_dir"]), "finished", {})

    monkeypatch.setattr("fvit.train.train", work)
    assert main("train", "-m", *SHORT, "seed=0,1,2", AGAIN).returncode == 0
    assert resumed == [str(Path("swept/1/checkpoints/last.ckpt").resolve()), None]


def test_jobs_that_were_not_reached_are_told(tmp_path):
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("[seed=0]")
    write_metrics(tmp_path / "0", "finished", {})
    jobs = sweep.Sweep(tmp_path, [["seed=0"], ["seed=1"]]).jobs()
    assert [(job.number, job.overrides, job.record["status"]) for job in jobs] == [
        (0, ["seed=0"], "finished"),
        (1, ["seed=1"], "not started"),
    ]


@pytest.fixture
def left_over_group(tmp_path, monkeypatch):
    """What an earlier job of a sweep may leave behind: a process group of one, and rank variables."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_job_that_finds_another_world_than_its_own_fails(main, left_over_group):
    done = main("train", "-m", *SHORT, "hardware=ddp_cpu", "seed=0,1")
    assert done.returncode == 1
    assert _table(done).count("the run is configured for 2 processes and finds 1") == 2


def _planned(*overrides):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        return sweep.plan(hydra.compose_config("train", list(overrides), RunMode.MULTIRUN))


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
def test_presets_are_overridden_on_the_command_line(overrides, jobs, last):
    planned = _planned(*overrides)
    assert len(planned) == jobs
    assert set(last) <= set(planned[-1])


def test_a_preset_runs_by_its_name_alone(main):
    done = main("train", "sweep=seeds", "seed=0,1", *SHORT, AGAIN)
    assert done.returncode == 0, done.stderr
    assert [json.loads(Path(f"swept/{job}/metrics.json").read_text())["status"] for job in (0, 1)] == ["finished"] * 2
    assert re.search(r"^1 seed=1 +finished", _table(done), flags=re.MULTILINE)
