"""Runs with logger=wandb, read back from their offline W&B runs."""

import json
import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.eval import Eval
from fvit.eval import evaluate
from fvit.loggers.wandb_origin import shortened
from tests.callbacks.test_resume_state import KillAt, Killed
from tests.loggers.wandb_runs import runs
from tests.training.fitting import FAKE, fit

TINY = ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "global_batch_size=16"]
SHORT = [*TINY, "trainer.max_epochs=2", "scheduler.warmup_epochs=0", "trainer.log_every_n_steps=1"]


def start(tmp_path, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    environment |= {"WANDB_API_KEY": "", "NETRC": str(tmp_path / "none"), "WANDB_CONFIG_DIR": str(tmp_path / "none")}
    environment = {name: value for name, value in environment.items() if name not in ("WANDB_MODE", "WANDB_DATA_DIR")}
    command = [sys.executable, "-m", "fvit.train", *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_jobs_of_a_sweep_are_complete_runs_in_one_group(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / ".gitignore").write_text("logs\n")
    (tmp_path / "own.py").write_text("before = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "own.py").write_text("after = 2\n")
    done = start(
        tmp_path, "-m", "attention=additive,softmax", *SHORT, "logger=[csv,wandb]", "logger.wandb.artifacts=all"
    )
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith("W&B: ")]
    assert len(printed) == 2
    for line in printed:
        assert line.startswith("W&B: no API key, so this run stays offline in logs/wandb/offline-run-")
        assert "`wandb leet logs/wandb`" in line
        assert "`wandb sync logs/wandb/offline-run-" in line
    assert "wandb:" not in done.stdout + done.stderr, "W&B itself prints nothing"

    [sweep] = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    found = runs(tmp_path / "logs" / "wandb")
    assert len(found) == 2
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    for job, (run, attention) in enumerate(zip(found, ("additive", "softmax"), strict=True)):
        folder = sweep / str(job)
        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        assert run.run["run_id"] == (folder / "wandb_id").read_text()
        assert run.run["run_group"] == sweep.name
        assert run.run["job_type"] == "train"
        assert run.run["tags"] == ["vit_atto", attention, "seed 0", "fake"]
        assert run.run["display_name"] == shortened(", ".join(["vit_atto", attention, *SHORT, "seed 0"]))
        assert (run.summed["state"], run.summed["exit_code"]) == ("finished", 0)
        logged = run.summed["config"]
        assert {key: logged[key] for key in config} == config
        assert logged["choices"] | {"attention": attention, "data": "fake", "experiment": None} == logged["choices"]
        assert logged["overrides"]["model.depth"] == "1"
        assert logged["variant"] == ", ".join(["vit_atto", attention, *SHORT])
        assert logged["dataset"]["train_images"] == 64
        assert len(logged["dataset"]["labels"]) == 64
        axes = {"trainer/global_step", "epoch", "progress/images_seen", "progress/device_hours"}
        for name, count in (("train/loss", 8), ("val/acc1", 2), ("train/acc1", 2)):
            rows = [row for row in run.rows if name in row]
            assert len(rows) == count
            assert all(axes <= set(row) for row in rows)
        assert run.axes == {"trainer/global_step": None, "*": "trainer/global_step"}
        assert any("proc.memory.availableMB" in stats for stats in run.system)
        summary = run.summed["summary"]
        assert {name: summary[name] for name in metrics} == pytest.approx(metrics)
        assert {"best/val/acc1", "cost/params", "cost/macs", "throughput/images_per_s", "memory/peak_gib"} <= set(
            metrics
        )
        assert [one["name"] for one in run.artifacts if one["type"] == "dataset"] == ["data-fake"]
        models = [sorted(one["aliases"]) for one in run.artifacts if one["type"] == "model"]
        assert models == [["best", "latest"], ["last", "latest"]]
        described = [json.loads(one["metadata"]) for one in run.artifacts if one["type"] == "model"]
        assert [one["global_step"] for one in described][-1] == 8
        assert described[0]["val/acc1"] == pytest.approx(metrics["best/val/acc1"])
        assert {"val/predictions", "val/confusion_table"} <= set(summary)
        assert any(name.startswith("attention/") for name in summary)
        assert run.environment["git"]["commit"] == commit
        assert "+after = 2" in (run.files / "diff.patch").read_text()


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/test_wandb_server.py sends such a sweep to a server
def test_failed_job_is_a_failed_run_and_the_next_job_is_another_run(tmp_path):
    done = start(tmp_path, "-m", "optimizer.lr=1e30,1e-3", *SHORT, "logger=wandb")
    assert done.returncode != 0
    failed, finished = runs(tmp_path / "logs" / "wandb")
    assert (failed.summed["state"], failed.summed["exit_code"]) == ("failed", 1)
    assert (finished.summed["state"], finished.summed["exit_code"]) == ("finished", 0)
    assert failed.run["run_group"] == finished.run["run_group"]
    assert failed.run["run_id"] != finished.run["run_id"]


@pytest.mark.slow
def test_all_ranks_log_to_one_run(tmp_path):
    done = start(tmp_path, *SHORT, "hardware=ddp_cpu", "logger=wandb", "data.num_images=65")
    assert done.returncode == 0, done.stderr
    assert "sync_dist" not in done.stdout + done.stderr, "Lightning's warning if ranks log different values"
    [run] = runs(tmp_path / "logs" / "wandb")
    assert (run.summed["state"], run.summed["exit_code"]) == ("finished", 0)
    summary = run.summed["summary"]
    assert summary["progress/images_seen"] == 128
    table = json.loads((run.files / summary["val/confusion_table"]["path"]).read_text())
    [folder] = (tmp_path / "logs" / "train" / "runs").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    counts = [(actual == predicted, count) for actual, predicted, count in table["data"]]
    images = sum(count for _, count in counts)
    assert images == run.summed["config"]["dataset"]["val_images"], "of both ranks, each once"
    assert sum(count for right, count in counts if right) / images == pytest.approx(metrics["val/acc1"])


@pytest.mark.slow
def test_resumed_run_is_one_run_in_two_parts(compose_config, tmp_path):
    def run(probe=None):
        here = [f"logger.wandb.save_dir={tmp_path}", "ckpt_path=last", "logger.wandb.media=2"]
        return fit(compose_config(*FAKE, "trainer.max_epochs=2", "logger=wandb", *here), probe)

    with pytest.raises(Killed):
        run(KillAt("on_train_batch_start", 6))
    run()
    first, second = runs(tmp_path / "wandb")
    assert first.run["run_id"] == second.run["run_id"] == (tmp_path / "run" / "wandb_id").read_text()
    assert (first.summed["exit_code"], second.summed["exit_code"]) == (1, 0)
    steps = [[row["trainer/global_step"] for row in part.rows if "val/acc1" in row] for part in (first, second)]
    assert steps == [[3], [7]]
    media = [
        [row["trainer/global_step"] for row in part.rows if "val/predictions._type" in row] for part in (first, second)
    ]
    assert media == [[3], [7]]
    assert second.rows[-1]["progress/device_hours"] > first.rows[-1]["progress/device_hours"] > 0


@pytest.mark.slow
def test_evaluation_is_a_run(compose_config, tmp_path):
    fit(compose_config(*FAKE, "logger=none"))
    overrides = [f"output_dir={tmp_path / 'eval'}", f"ckpt_path={tmp_path / 'run'}", "logger=wandb_eval"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("eval", overrides=[*overrides, f"logger.wandb.save_dir={tmp_path}"])
    measured = evaluate(validation.check(composed, Eval))
    [run] = runs(tmp_path / "wandb")
    assert (run.run["job_type"], run.summed["state"]) == ("eval", "finished")
    assert {name: run.summed["summary"][name] for name in measured} == pytest.approx(measured)
    assert run.summed["config"]["model"]["attention"]["name"] == "additive"
    assert run.summed["config"]["dataset"]["val_images"] > 0
    assert run.summed["summary"]["cost/macs"] > 0
