"""Runs that are sent to a W&B server on this machine, and read back from it."""

import json
import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from fvit.loggers.wandb_origin import shortened
from tests.loggers.wandb_runs import Read
from tests.wandb_server import serving

pytestmark = pytest.mark.slow

TINY = ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "global_batch_size=16"]
SHORT = [*TINY, "scheduler.warmup_epochs=0", "trainer.log_every_n_steps=1", "logger=wandb", "logger.wandb.media=1"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def train(server, tmp_path):
    def run(*arguments, code=0):
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_DATA_DIR"}
        environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "160", **server.environment}
        command = [sys.executable, "-m", "fvit.train", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def kept(folder, run_id):
    """What W&B also kept here of a run that it sent."""
    [path] = (folder / "logs" / "wandb").glob(f"run-*-{run_id}/*.wandb")
    return Read(path)


def test_the_jobs_of_a_sweep_arrive_whole(server, train, tmp_path):
    overrides = [*SHORT, "trainer.max_epochs=2", "logger.wandb.project=sweep"]
    printed = train("-m", "attention=additive,softmax", *overrides)
    [sweep] = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    found = server.runs("sweep")
    assert len(found) == 2
    for job, (run, attention) in enumerate(zip(found, ("additive", "softmax"), strict=True)):
        folder, run_id = sweep / str(job), run["run_id"]
        assert run_id == (folder / "wandb_id").read_text()
        assert f"W&B: {server.url}/default/sweep/runs/{run_id}" in printed
        assert run["state"] == "finished"
        named = [override for override in overrides if not override.startswith("logger")]
        assert run["display_name"] == shortened(", ".join(["vit_atto", attention, *named, "seed 0"]))
        assert run["tags"] == ["vit_atto", attention, "seed 0", "fake"]
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        assert {key: run["config"][key] for key in config} == config
        assert run["config"]["dataset"]["train_images"] == 64
        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
        assert {name: run["summary"][name] for name in metrics} == pytest.approx(metrics)
        for metric, count in (("train/loss", 8), ("val/acc1", 2), ("train/acc1", 2)):
            assert len(server.curve(run_id, metric)) == count
        assert server.curve(run_id, "val/loss")[-1] == pytest.approx(metrics["val/loss"])
        steps = server.curve(run_id, "trainer/global_step")
        assert (steps, max(steps)) == (sorted(steps), 7)
        files, here = server.files(run_id), kept(tmp_path, run_id).files
        media = [name for name in files if name.startswith("media/")]
        assert {name.split("/")[1] for name in media} == {"table", "images"}
        assert any("attention/" in name for name in media)
        assert {name: files[name] for name in media} == {name: (here / name).read_bytes() for name in media}
        assert {"config.yaml", "wandb-metadata.json", "requirements.txt", "output.log"} <= set(files)
        assert any(name.startswith("system.proc") for name in server.system(run_id))


def test_a_resumed_run_is_one_run(server, train):
    here = [*SHORT, "logger.wandb.project=resumed", "hydra.run.dir=logs/one"]
    train(*here, "trainer.max_epochs=1")
    [before] = server.runs("resumed")
    train(*here, "trainer.max_epochs=2", "ckpt_path=logs/one")
    [run] = server.runs("resumed")
    assert (run["run_id"], run["state"]) == (before["run_id"], "finished")
    assert len(server.curve(run["run_id"], "train/loss")) == 8
    assert len(server.curve(run["run_id"], "val/acc1")) == 2
    assert run["summary"]["progress/images_seen"] == 128 == 2 * before["summary"]["progress/images_seen"]


@pytest.mark.exhaustive  # tests/loggers/test_wandb.py closes failed runs, and has a server that refuses artifacts
def test_a_failed_run_arrives_as_far_as_it_came_and_artifacts_do_not_stop_it(server, train, tmp_path):
    overrides = [*SHORT, "trainer.max_epochs=2", "logger.wandb.project=failed", "logger.wandb.artifacts=all"]
    train("-m", "optimizer.lr=1e30,1e-3", *overrides, code=1)
    failed, finished = server.runs("failed")
    assert len(server.curve(failed["run_id"], "train/loss")) < 8
    assert failed["summary"]["cost/params"] == finished["summary"]["cost/params"] > 0
    assert [kept(tmp_path, run["run_id"]).summed["exit_code"] for run in (failed, finished)] == [1, 0]
    assert "model" in server.artifacts(finished["run_id"])
    assert len(server.curve(finished["run_id"], "val/acc1")) == 2
