import signal

import pytest

from fvit.launch.slurm import requeue

VARIABLES = ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_ARRAY_JOB_ID")
VARIABLES += ("SUBMITIT_EXECUTOR", "RANK", "WORLD_SIZE")


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A scontrol that notes what it is asked for; call it with a body to have it do otherwise."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    asked = tmp_path / "asked"

    def install(body="exit 0"):
        program = tmp_path / "scontrol"
        program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n{body}\n')
        program.chmod(0o755)

    install()
    return lambda: asked.read_text().split("\n")[:-1] if asked.exists() else [], install


@pytest.mark.parametrize(
    ("signum", "environment", "expected"),
    [
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7"}, ["requeue 7"]),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "fvit"}, ["requeue 7"]),
        (
            signal.SIGUSR1,
            {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"},
            ["requeue 5_2"],
        ),
        (signal.SIGTERM, {"SLURM_JOB_ID": "7"}, []),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, []),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "RANK": "3", "WORLD_SIZE": "4"}, []),
        (
            signal.SIGUSR1,  # torchrun numbers machines as they come
            {"SLURM_JOB_ID": "7", "RANK": "0", "WORLD_SIZE": "4", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            ["requeue 7"],
        ),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive"}, []),
        (signal.SIGUSR1, {"SLURM_JOB_ID": "7", "SUBMITIT_EXECUTOR": "slurm"}, []),
        (signal.SIGUSR1, {}, []),
    ],
    ids=[
        "batch",
        "rank 0",
        "array",
        "cancelled",
        "rank 1",
        "torchrun",
        "torchrun's first",
        "interactive",
        "submitit",
        "no SLURM",
    ],
)
def test_the_first_rank_of_a_batch_job_asks_once(scontrol, monkeypatch, signum, environment, expected):
    asked, _ = scontrol
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    requeue(signum)
    assert asked() == expected


def test_a_refusal_is_told(scontrol, monkeypatch, capsys):
    _, install = scontrol
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    requeue(signal.SIGUSR1)
    assert "SLURM has requeued job 7" in capsys.readouterr().err
    install("echo 'Requested operation is presently disabled' >&2; exit 1")
    requeue(signal.SIGUSR1)
    assert "job 7 was not requeued: Requested operation is presently disabled" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    requeue(signal.SIGUSR1)
    assert "job 7 was not requeued: there is no scontrol" in capsys.readouterr().err
