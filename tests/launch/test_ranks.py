"""Ranks that torchrun or srun started: one run directory, one configuration, all images."""

import json
import os
import socket
import subprocess
import sys

import pytest

from fvit.config.errors import RunError
from fvit.launch import ranks

TINY = (
    *("data=fake", "data.num_images=132", "model.embed_dim=24", "model.depth=1", "global_batch_size=16"),
    *("trainer.max_epochs=1", "scheduler.warmup_epochs=0", "+trainer.limit_train_batches=2", "logger=none"),
)
ON_CPU = ("trainer.accelerator=cpu", "trainer.precision=32-true", "tf32=false", "data.pin_memory=false")
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_NTASKS")


@pytest.fixture(autouse=True)
def started_alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def together(folder, commands, environments):
    """Run commands at the same time in `folder`, as machines or tasks would."""
    shared = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**shared, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    texts = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(texts)
    return texts


def jobs(folder, kind="runs"):
    """The metrics of all runs in `folder`."""
    found = sorted((folder / "logs" / "train" / kind).rglob("metrics.json"))
    records = [json.loads(path.read_text()) for path in found]
    assert {record["status"] for record in records} == {"finished"}
    return [record["metrics"] for record in records]


@pytest.mark.slow
def test_a_torchrun_sweep_on_two_machines_is_one_sweep_of_two_ranks(tmp_path):
    """Accuracies are over all 33 validation images: they are multiples of 1/33."""
    meet = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    start = ["torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", meet, "--rdzv-id=one"]
    command = [*start, "-m", "fvit.train", "-m", "seed=0,1", "hardware=torchrun", *TINY, *ON_CPU]
    texts = together(tmp_path, [command, command], [{}, {}])
    assert sum(text.count("8 per device × 2 devices") for text in texts) == 2
    assert len(list((tmp_path / "logs" / "train" / "multiruns").iterdir())) == 1
    first, second = jobs(tmp_path, "multiruns")
    assert first["val/loss"] != second["val/loss"]
    for metrics in (first, second):
        assert 33 * metrics["val/acc1"] == pytest.approx(round(33 * metrics["val/acc1"]), abs=1e-4)


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/test_stopping.py stops such a run
def test_srun_tasks_are_the_ranks_of_one_run(tmp_path):
    """Two machines with one task each, as described by SLURM's variables."""
    job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1"}
    job |= {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "MASTER_PORT": free_port()}
    tasks = [{**job, "SLURM_PROCID": str(i), "SLURM_NODEID": str(i), "SLURM_LOCALID": "0"} for i in range(2)]
    command = ["fvit.train", "hardware=slurm", *TINY, *ON_CPU]
    texts = together(tmp_path, [command, command], tasks)
    assert sum(text.count("8 per device × 2 devices") for text in texts) == 1
    assert len(jobs(tmp_path)) == 1


def test_configurations_arrive_in_order_up_to_none(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, value)
    first, other = ranks.ConfigBroadcast(), ranks.ConfigBroadcast()
    sent = [{"seed": 0, "title": "α"}, {"seed": 1}, None]
    for config in sent:
        first.send(config)
    assert [other.receive() for _ in sent] == sent


def test_a_missing_rank_zero_is_reported(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "_TIMEOUT", ranks.timedelta(seconds=1))
    with pytest.raises(RunError, match="rank 0 sent no configuration"):
        ranks.ConfigBroadcast().receive()


def test_the_rank_is_that_of_torchrun_or_srun(monkeypatch):
    assert ranks.external_rank() is None
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")  # a job that runs a command without srun
    assert ranks.external_rank() is None
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert ranks.external_rank() == 3
    monkeypatch.setenv("RANK", "1")  # torchrun inside a job
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks.external_rank() == 1


def test_a_wrong_number_of_processes_is_refused(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    ranks.check_world({"devices": 2, "num_nodes": 2})
    with pytest.raises(ValueError, match=r"srun started 4 processes.*make 2; use hardware=slurm"):
        ranks.check_world({"devices": [0, 1], "num_nodes": 1})
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ValueError, match=r"torchrun started 8 processes.*make another number; use hardware=torchrun"):
        ranks.check_world({"devices": "auto", "num_nodes": 1})


def test_several_machines_need_torchrun_or_srun():
    ranks.check_world({"devices": 2, "num_nodes": 1})
    with pytest.raises(ValueError, match=r"num_nodes=2 needs torchrun with hardware=torchrun, or srun"):
        ranks.check_world({"devices": 2, "num_nodes": 2})
