import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fvit.config.errors import RunError
from fvit.launch import processes, signals
from fvit.launch.lock import in_use
from fvit.launch.record import read_metrics, write_metrics
from fvit.launch.signals import Stopped

DDP = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}


@pytest.fixture(autouse=True)
def started_alone(monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake_task(tmp_path, monkeypatch):
    """`fake_task(body)` writes a module that the ranks run instead of fvit.train, in tmp_path; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))

    def write(body):
        (tmp_path / "fake_task.py").write_text("import json, os, sys, time\nrank = os.environ['LOCAL_RANK']\n" + body)
        return "fake_task"

    return write


# What rank 0 does when the run begins.
BEGIN = """
from fvit.launch.record import write_metrics
from pathlib import Path
if rank == '0':
    write_metrics(Path(json.load(open(sys.argv[2]))["output_dir"]), "running", {"val/acc1": 0.5})
    open('begun', 'w')
while not os.path.exists('begun'):
    time.sleep(0.01)
"""


@pytest.fixture
def config(tmp_path):
    return {"trainer": {"num_nodes": 1, "devices": 2}, "seed": 7, "output_dir": str(tmp_path)}


@pytest.mark.parametrize(
    ("accelerator", "devices", "strategy", "count"),
    [
        ("cpu", 1, "auto", 0),
        ("cpu", 1, "ddp", 1),
        ("cpu", 3, "ddp", 3),
        ("gpu", [0, 2], "ddp", 2),
        ("cpu", "auto", "ddp", 1),
    ],
)
def test_one_process_per_device(accelerator, devices, strategy, count):
    trainer = {"accelerator": accelerator, "devices": devices, "strategy": strategy}
    assert processes.local_processes(trainer) == count


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"LOCAL_RANK": "0"}, 0),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, 0),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 0),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, 2),
        ({"SLURM_PROCID": "0"}, 2),
    ],
    ids=["fvit", "srun", "torchrun", "a single task of SLURM", "an interactive SLURM job"],
)
def test_nothing_is_started_if_the_ranks_exist(environment, count, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.local_processes(DDP) == count


def test_all_ranks_get_the_same_configuration(fake_task, tmp_path, config):
    body = (
        "config = json.load(open(sys.argv[2]))\n"
        "names = ['LOCAL_RANK', 'WORLD_SIZE', 'NODE_RANK', 'MASTER_ADDR', 'MASTER_PORT']\n"
        "open('seen-' + rank, 'w').write(json.dumps([config, *[os.environ[n] for n in names]]))\n"
    )
    processes.launch(fake_task(body), config, tmp_path, 2)
    first, second = (json.loads((tmp_path / f"seen-{rank}").read_text()) for rank in (0, 1))
    assert first[0] == second[0] == config
    assert (first[1], second[1]) == ("0", "1")
    assert first[2:] == second[2:]
    assert first[2] == "2"
    assert "LOCAL_RANK" not in os.environ


def test_a_failing_rank_ends_the_others_and_is_reported_with_its_log(fake_task, tmp_path, config):
    body = "if rank == '1':\n    print('out', flush=True)\n    sys.exit('boom')\ntime.sleep(60)\n"
    start = time.monotonic()
    with pytest.raises(RunError, match="rank 1 exited with code 1\nout\nboom"):
        processes.launch(fake_task(body), config, tmp_path, 2)
    assert time.monotonic() - start < 30
    assert read_metrics(tmp_path) is None  # the run had not begun


def test_a_killed_rank_is_reported_with_its_signal(fake_task, tmp_path, config):
    body = BEGIN + "if rank == '0':\n    os.kill(os.getpid(), 9)\ntime.sleep(60)\n"
    with pytest.raises(RunError, match="rank 0 was killed by signal 9, as the kernel does when memory runs out"):
        processes.launch(fake_task(body), config, tmp_path, 2)
    assert read_metrics(tmp_path)["status"] == "killed"


def test_a_directory_in_use_is_left_untouched(tmp_path, config):
    write_metrics(tmp_path, "running", {"val/acc1": 0.5})
    written = (tmp_path / "metrics.json").read_bytes()
    hold = (
        f"import pathlib\nfrom fvit.launch.lock import held\nwith held(pathlib.Path({str(tmp_path)!r})): input(print())"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(RunError, match="is in use by another process"):
            processes.launch("fvit.train", config, tmp_path, 2)
    finally:
        other.communicate(b"\n", timeout=60)
    assert (tmp_path / "metrics.json").read_bytes() == written
    assert not list(tmp_path.glob(".start-*"))


def test_only_ranks_read_a_resolved_configuration():
    assert processes.read_resolved(["fvit-train", "seed=1"]) is None
    assert processes.read_resolved([sys.argv[0]]) is None


@pytest.mark.slow
def test_a_rank_that_fails_before_its_run_begins_says_why_and_records_nothing(fake_task, tmp_path, config):
    body = (
        "from fvit.config.errors import ConfigError\n"
        "from fvit.launch import processes\n"
        "def work(config):\n    raise ConfigError('no such hardware')\n"
        "processes.run_as_rank(work, processes.read_resolved(sys.argv))\n"
    )
    with pytest.raises(RunError, match=r"^no such hardware$"):
        processes.launch(fake_task(body), config, tmp_path, 2)
    assert read_metrics(tmp_path) is None
    assert not list(tmp_path.glob("rank-*.log"))


@pytest.mark.parametrize(
    ("interrupted", "end"),
    [
        pytest.param("0", "sys.exit(130)", id="0, by itself"),
        pytest.param("1", "os.kill(os.getpid(), 2)", id="1, killed"),
        pytest.param("0", "os.kill(os.getpid(), 2)", id="0, killed", marks=pytest.mark.slow),
        pytest.param("1", "sys.exit(130)", id="1, by itself", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_in_one_rank_alone_is_an_interrupt(fake_task, tmp_path, config, interrupted, end):
    """The others notice only that it is gone, and may record that as a failure."""
    body = BEGIN + (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        f"if rank == '{interrupted}':\n    {end}\n"
        "time.sleep(0.3)\n"
        "if rank == '0':\n    write_metrics(Path('.'), 'failed', {'val/acc1': 0.5}, error='a rank is gone')\n"
        "sys.exit('a rank is gone')\n"
    )
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted: "):
        processes.launch(fake_task(body), config, tmp_path, 2)
    saved = read_metrics(tmp_path)
    assert (saved["status"], saved["metrics"]) == ("interrupted", {"val/acc1": 0.5})
    assert saved["error"] == f"interrupted: {tmp_path}"


# A process that calls `launch`, and ranks that each lock a directory, as rank 0 locks that of its run.
LAUNCH = """
import sys
from pathlib import Path
from fvit.launch import processes, signals
signals._ECHO_SECONDS = 0.0
processes.launch("fake_task", {"output_dir": sys.argv[1]}, Path(sys.argv[1]), 2)
"""
LOCK = """
from pathlib import Path
from fvit.launch import lock, processes, signals
def hold(config):
    folder = Path(config["output_dir"]) / rank
    folder.mkdir()
    with signals.deferring(), lock.held(folder):
        open(folder / "ready", "w")
        time.sleep(120)
processes.run_as_rank(hold, processes.read_resolved(sys.argv))
"""


@pytest.mark.parametrize(
    ("signums", "code"),
    [
        pytest.param([signal.SIGKILL], -signal.SIGKILL, id="kill -9"),
        pytest.param([signal.SIGTERM, signal.SIGTERM], 143, id="a second signal", marks=pytest.mark.slow),
    ],
)
def test_ranks_die_with_their_parent(fake_task, tmp_path, signums, code):
    fake_task(LOCK)
    parent = subprocess.Popen([sys.executable, "-c", LAUNCH, str(tmp_path)])
    folders = [tmp_path / "0", tmp_path / "1"]
    try:
        while not all((folder / "ready").exists() for folder in folders):
            assert parent.poll() is None
            time.sleep(0.05)
        for signum in signums:
            assert all(map(in_use, folders))
            parent.send_signal(signum)
            time.sleep(0.5)
        assert parent.wait(timeout=5) == code
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while any(map(in_use, folders)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_rank_whose_parent_died_before_it_looks_exits(fake_task, tmp_path, monkeypatch):
    (tmp_path / "resolved.json").write_text(json.dumps({"output_dir": str(tmp_path)}))
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("FVIT_LAUNCHER", str(os.getppid()))
    command = [sys.executable, "-m", fake_task(LOCK), processes.RESOLVED, str(tmp_path / "resolved.json")]
    assert subprocess.run(command, timeout=60).returncode == 1


# Ranks that exit on SIGTERM with the right code.
OBEY = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nopen('ready-' + rank, 'w')\n"
IGNORE = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen('ready-' + rank, 'w')\ntime.sleep(60)\n"


def terminate_when_ready(tmp_path):
    def wait():
        while not all((tmp_path / f"ready-{rank}").exists() for rank in (0, 1)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def test_a_signal_is_forwarded_to_all_ranks(fake_task, tmp_path, config):
    terminate_when_ready(tmp_path)
    start = time.monotonic()
    with pytest.raises(Stopped) as caught:
        processes.launch(fake_task(OBEY + "time.sleep(60)\n"), config, tmp_path, 2)
    assert time.monotonic() - start < 10
    assert caught.value.signum == signal.SIGTERM


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("sys.exit(143)", id="by itself"),
        pytest.param("os.kill(os.getpid(), 15)", id="killed"),
    ],
)
@pytest.mark.slow
def test_a_rank_that_alone_received_a_signal_ends_the_others(fake_task, tmp_path, monkeypatch, end, config):
    monkeypatch.setattr(processes, "_PATIENCE", 1.0)
    body = BEGIN + f"if rank == '1':\n    {end}\n" + OBEY + "time.sleep(60)\n"
    with pytest.raises(Stopped, match="without a checkpoint"):
        processes.launch(fake_task(body), config, tmp_path, 2)
    assert read_metrics(tmp_path)["status"] == "interrupted"
    assert read_metrics(tmp_path)["metrics"] == {"val/acc1": 0.5}


@pytest.mark.parametrize(
    ("executor", "signum", "end"),
    [
        pytest.param(None, signal.SIGUSR1, Stopped, id="SIGUSR1", marks=pytest.mark.slow),
        pytest.param("slurm", signal.SIGUSR2, Stopped, id="submitit's SIGUSR2"),
        pytest.param(None, signal.SIGUSR2, RunError, id="another SIGUSR2", marks=pytest.mark.slow),
    ],
)
def test_a_signal_before_a_rank_has_a_handler_is_no_failure(
    fake_task, tmp_path, monkeypatch, executor, signum, end, config
):
    monkeypatch.delenv("SUBMITIT_PREEMPT_SIGNAL", raising=False)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor) if executor else monkeypatch.delenv("SUBMITIT_EXECUTOR", False)
    with pytest.raises(end):
        processes.launch(fake_task(f"os.kill(os.getpid(), {int(signum)})\n"), config, tmp_path, 2)


def test_ranks_that_ignore_a_signal_are_killed_when_their_time_is_up(fake_task, tmp_path, monkeypatch, config):
    monkeypatch.setattr(processes, "_PATIENCE", 0.5)
    monkeypatch.setattr(processes, "_GRACE", 0.5)
    terminate_when_ready(tmp_path)
    start = time.monotonic()
    with pytest.raises(Stopped):
        processes.launch(fake_task(IGNORE), config, tmp_path, 2)
    assert time.monotonic() - start < 10


@pytest.mark.slow
def test_a_failure_while_ranks_exit_is_reported(fake_task, tmp_path, config):
    body = OBEY.replace("143", "143 if rank == '0' else 'disk full'") + "time.sleep(60)\n"
    terminate_when_ready(tmp_path)
    with pytest.raises(RunError, match="rank 1 exited with code 1\ndisk full"), signals.listening():
        processes.launch(fake_task(body), config, tmp_path, 2)


def test_a_rank_exits_with_143_on_a_signal(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as stop:
        processes.run_as_rank(lambda config: os.kill(os.getpid(), signal.SIGUSR1), {"output_dir": str(tmp_path)})
    assert stop.value.code == 143
