import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fvit.config.errors import ConfigError, RunError
from fvit.launch import processes, signals
from fvit.launch.lock import in_use
from fvit.launch.run_dir import read_metrics, write_metrics
from fvit.launch.signals import Stopped


@pytest.mark.parametrize(
    ("accelerator", "devices", "strategy", "processes"),
    [
        ("cpu", 1, "auto", 0),
        ("cpu", 1, "ddp", 1),
        ("cpu", 3, "ddp", 3),
        ("gpu", [0, 2], "ddp", 2),
        ("cpu", "auto", "ddp", 1),
    ],
)
def test_processes_follow_devices(accelerator, devices, strategy, processes, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    trainer = {"accelerator": accelerator, "devices": devices, "strategy": strategy}
    assert processes.local_processes(trainer) == processes


DDP = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}


@pytest.mark.parametrize(
    "environment",
    [{"LOCAL_RANK": "0"}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, {"RANK": "0", "WORLD_SIZE": "2"}],
    ids=["we", "srun", "torchrun"],
)
def test_nothing_is_started_where_somebody_else_did(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.local_processes(DDP) == 0


@pytest.mark.parametrize("tasks", ["1", None])
def test_a_single_task_of_slurm_starts_its_processes_itself(tasks, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", tasks) if tasks else monkeypatch.delenv("SLURM_NTASKS", raising=False)
    assert processes.local_processes(DDP) == 2


def _module(tmp_path, monkeypatch, body):
    """A module that stands for fvit.train in the children."""
    (tmp_path / "fake_task.py").write_text("import json, os, sys, time\nrank = os.environ['LOCAL_RANK']\n" + body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "fake_task"


CONFIG = {"trainer": {"num_nodes": 1, "devices": 2}, "seed": 7}


def test_every_rank_gets_the_same_configuration_and_its_own_rank(tmp_path, monkeypatch):
    body = (
        "config = json.load(open(sys.argv[2]))\n"
        f"names = ['LOCAL_RANK', 'WORLD_SIZE', 'NODE_RANK', 'MASTER_ADDR', 'MASTER_PORT']\n"
        f"open(r'{tmp_path}/seen-' + rank, 'w').write(json.dumps([config, *[os.environ[n] for n in names]]))\n"
    )
    processes.launch(_module(tmp_path, monkeypatch, body), CONFIG, tmp_path, 2)
    first, second = (json.loads((tmp_path / f"seen-{rank}").read_text()) for rank in (0, 1))
    assert first[0] == second[0] == CONFIG
    assert (first[1], second[1]) == ("0", "1")
    assert first[2:] == second[2:]
    assert first[2] == "2"
    assert "LOCAL_RANK" not in os.environ


def test_a_rank_that_dies_takes_the_others_along_and_is_named(tmp_path, monkeypatch):
    body = "if rank == '1':\n    print('boom')\n    sys.exit(3)\ntime.sleep(60)\n"
    started = time.monotonic()
    with pytest.raises(RunError, match="rank 1 ended with code 3\nboom"):
        processes.launch(_module(tmp_path, monkeypatch, body), CONFIG, tmp_path, 2)
    assert time.monotonic() - started < 30
    assert read_metrics(tmp_path)["status"] == "failed"


def test_a_killed_rank_is_named_with_its_signal(tmp_path, monkeypatch):
    body = "if rank == '0':\n    os.kill(os.getpid(), 9)\ntime.sleep(60)\n"
    with pytest.raises(RunError, match="rank 0 was killed by signal 9"):
        processes.launch(_module(tmp_path, monkeypatch, body), CONFIG, tmp_path, 2)


def test_a_folder_at_work_keeps_what_its_run_has_written(tmp_path):
    write_metrics(tmp_path, "running", {"val/acc1": 0.5})
    written = (tmp_path / "metrics.json").read_bytes()
    hold = (
        f"import pathlib\nfrom fvit.launch.lock import held\nwith held(pathlib.Path({str(tmp_path)!r})): input(print())"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(RunError, match="another process is at work in this run"):
            processes.launch("fvit.train", CONFIG, tmp_path, 2)
    finally:
        other.communicate(b"\n", timeout=60)
    assert (tmp_path / "metrics.json").read_bytes() == written
    assert not (tmp_path / "resolved.json").exists()


def test_a_command_line_without_a_resolved_file_is_hydras():
    assert processes.read_resolved(["fvit-train", "seed=1"]) is None
    assert processes.read_resolved([sys.argv[0]]) is None


def test_a_rank_that_fails_before_its_record_began_still_tells_why(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")

    def work(config):
        raise ConfigError("no such hardware")

    with pytest.raises(SystemExit):
        processes.run_as_rank(work, {"output_dir": str(tmp_path)})
    saved = read_metrics(tmp_path)
    assert (saved["status"], saved["error"]) == ("failed", "no such hardware")


# A process of its own calls `launch`; its ranks each hold a folder, as rank 0 does that of a run.
LAUNCHES = """
import sys
from pathlib import Path
from fvit.launch import processes
processes.launch("fake_task", {"trainer": {"num_nodes": 1}, "output_dir": sys.argv[1]}, Path(sys.argv[1]), 2)
"""
HOLDS = """
from pathlib import Path
from fvit.launch import processes
from fvit.launch import lock
def hold(config):
    folder = Path(config["output_dir"]) / rank
    folder.mkdir()
    with lock.held(folder):
        open(folder / "ready", "w")
        time.sleep(120)
processes.run_as_rank(hold, processes.read_resolved(sys.argv))
"""


def test_ranks_end_with_the_process_that_has_started_them(tmp_path, monkeypatch):
    _module(tmp_path, monkeypatch, HOLDS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    started = subprocess.Popen([sys.executable, "-c", LAUNCHES, str(tmp_path)])
    folders = [tmp_path / "0", tmp_path / "1"]
    try:
        while not all((folder / "ready").exists() for folder in folders):
            assert started.poll() is None
            time.sleep(0.05)
    finally:
        started.kill()
        started.wait()
    deadline = time.monotonic() + 30
    while any(map(in_use, folders)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_rank_whose_launcher_is_gone_before_it_looks_ends_as_well(tmp_path, monkeypatch):
    _module(tmp_path, monkeypatch, HOLDS)
    (tmp_path / "resolved.json").write_text(json.dumps({"output_dir": str(tmp_path)}))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    environment |= {"LOCAL_RANK": "0", "FVIT_LAUNCHER": str(os.getppid())}
    command = [sys.executable, "-m", "fake_task", processes.RESOLVED, str(tmp_path / "resolved.json")]
    assert subprocess.run(command, env=environment, timeout=60).returncode == 1


# Children that end as ranks do when they are told to.
OBEYS = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nopen('ready-' + rank, 'w')\n"


def _signal_when_ready(tmp_path, ranks=(0, 1)):
    def wait():
        while not all((tmp_path / f"ready-{rank}").exists() for rank in ranks):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def test_a_signal_goes_on_to_all_ranks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = OBEYS + "time.sleep(60)\n"
    _signal_when_ready(tmp_path)
    started = time.monotonic()
    with pytest.raises(Stopped) as caught:
        processes.launch(_module(tmp_path, monkeypatch, body), CONFIG, tmp_path, 2)
    assert time.monotonic() - started < 10
    assert caught.value.signum == signal.SIGTERM


@pytest.mark.parametrize("end", ["sys.exit(143)", "os.kill(os.getpid(), 15)"], ids=["by itself", "killed"])
def test_a_rank_that_was_told_alone_takes_the_others_along(tmp_path, monkeypatch, end):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "_PATIENCE", 1.0)
    body = f"if rank == '1':\n    {end}\n" + OBEYS + "time.sleep(60)\n"
    write_metrics(tmp_path, "running", {"val/acc1": 0.5})
    with pytest.raises(Stopped, match="without a checkpoint"):
        processes.launch(_module(tmp_path, monkeypatch, body), CONFIG, tmp_path, 2)
    assert read_metrics(tmp_path)["status"] == "interrupted"
    assert read_metrics(tmp_path)["metrics"] == {"val/acc1": 0.5}


@pytest.mark.parametrize(
    ("executor", "signum", "end"),
    [(None, signal.SIGUSR1, Stopped), ("slurm", signal.SIGUSR2, Stopped), (None, signal.SIGUSR2, RunError)],
    ids=["SIGUSR1", "submitit's SIGUSR2", "SIGUSR2 of nobody"],
)
def test_a_rank_that_was_told_before_it_listens_has_not_failed(tmp_path, monkeypatch, executor, signum, end):
    monkeypatch.delenv("SUBMITIT_PREEMPT_SIGNAL", raising=False)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor) if executor else monkeypatch.delenv("SUBMITIT_EXECUTOR", False)
    with pytest.raises(end):
        processes.launch(_module(tmp_path, monkeypatch, f"os.kill(os.getpid(), {int(signum)})\n"), CONFIG, tmp_path, 2)


def test_a_rank_that_does_not_listen_is_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "_PATIENCE", 0.5)
    monkeypatch.setattr(processes, "_GRACE", 0.5)
    body = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen('ready-' + rank, 'w')\ntime.sleep(60)\n"
    _signal_when_ready(tmp_path)
    started = time.monotonic()
    with pytest.raises(Stopped):
        processes.launch(_module(tmp_path, monkeypatch, body), CONFIG, tmp_path, 2)
    assert time.monotonic() - started < 10


def test_a_failure_while_ranks_end_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = OBEYS.replace("143", "143 if rank == '0' else 'disk full'") + "time.sleep(60)\n"
    _signal_when_ready(tmp_path)
    with pytest.raises(RunError, match="rank 1 ended with code 1\ndisk full"), signals.listening():
        processes.launch(_module(tmp_path, monkeypatch, body), CONFIG, tmp_path, 2)


def test_a_rank_that_was_told_to_end_says_so_by_its_code(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as stop:
        processes.run_as_rank(lambda config: os.kill(os.getpid(), signal.SIGUSR1), {"output_dir": str(tmp_path)})
    assert stop.value.code == 143
