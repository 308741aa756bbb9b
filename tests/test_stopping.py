"""Signals to whole command lines: all processes end, with one checkpoint and exit code 143."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fvit.launch import run_dir, signals
from fvit.launch.record import read_metrics
from fvit.training import Classifier
from tests.launch.test_ranks import ON_CPU, free_port

ROOT = Path(__file__).parent.parent
TINY = ["data=fake", "model.embed_dim=24", "model.depth=1", "global_batch_size=16", "data.eval_batch_size=2"]
# At 0.05 s per batch, an epoch or a validation takes longer than the test waits.
LONG = {
    "training": ["data.num_images=32000"],
    "validation": ["data.num_images=8000", "+trainer.limit_train_batches=4"],
}


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")


class Run:
    """`python -m fvit.train` in its own session, optionally started `by` another program."""

    def __init__(self, folder, *overrides, by=(), **environment):
        self.folder = folder
        mark = ["+callbacks.mark._target_=tests.moments.Mark", f"+callbacks.mark.folder={folder}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *by, "fvit.train", *TINY, *mark, *overrides],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, stage, rank=0):
        """Wait until a rank is in that stage."""
        deadline = time.monotonic() + 240
        while not (self.folder / f"{stage}-{rank}").exists():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def send(self, target, signum):
        """Send a signal to the process group, to the process that was started, or to a rank that it started."""
        if target == "group":
            os.killpg(self.process.pid, signum)
        elif target == "parent":
            os.kill(self.process.pid, signum)
        else:
            os.kill(self._rank(target.removeprefix("rank")), signum)

    def end(self):
        """Exit code, seconds until then, stderr, and the remaining processes of the group."""
        started = time.monotonic()
        _, err = self.process.communicate(timeout=60)
        seconds = time.monotonic() - started
        left = subprocess.run(["pgrep", "-g", str(self.process.pid)], capture_output=True, text=True).stdout
        return self.process.returncode, seconds, err, left

    def _rank(self, rank):
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        for pid in map(int, children.stdout.split()):
            if f"LOCAL_RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
        raise AssertionError(f"no rank {rank}")


@pytest.fixture
def start(tmp_path):
    """Start runs; those that a failed test leaves behind are killed."""
    runs = []

    def start(*overrides, **options):
        runs.append(Run(tmp_path, *overrides, **options))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.communicate()


def _check_end(run, folder, stage, signum):
    code, seconds, err, left = run.end()
    assert code == 143, err
    assert seconds < 30
    assert left == ""
    assert "Traceback" not in err
    record = read_metrics(folder)
    assert record["status"] == "interrupted"
    assert err.strip().splitlines()[-1] == record["error"]
    where = "in the validation after step 4" if stage == "validation" else "at step "
    assert record["error"].startswith(f"stopped by {signum.name} {where}")
    [checkpoint] = (folder / "checkpoints").glob("*.ckpt*")
    assert checkpoint.name == "last.ckpt"
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert f"step {step} (epoch 1); saved {checkpoint}" in record["error"]


ALL = [pytest.mark.slow, pytest.mark.exhaustive]


def _combinations():
    """One process; and two, with each target in each stage."""
    # A sweep below has the former.
    yield pytest.param("cpu", "group", "training", 2, signal.SIGTERM, marks=ALL, id="cpu-group-training")
    for index, target in enumerate(("rank0", "rank1", "group", "parent")):
        for stage_index, stage in enumerate(("training", "validation")):
            signum = (signal.SIGTERM, signal.SIGUSR1)[index // 2 ^ stage_index]
            in_ci = (target, stage) == ("rank1", "validation")  # a sweep below has the group in training
            marks = pytest.mark.slow if in_ci else ALL
            yield pytest.param("ddp_cpu", target, stage, 2, signum, marks=marks, id=f"{target}-{stage}-{signum.name}")


@pytest.mark.parametrize(("hardware", "target", "stage", "workers", "signum"), list(_combinations()))
def test_a_signal_ends_all_processes_with_one_checkpoint(start, tmp_path, hardware, target, stage, workers, signum):
    folder = tmp_path / "run"
    overrides = [f"hardware={hardware}", f"data.num_workers={workers}", f"hydra.run.dir={folder}"]
    run = start(*LONG[stage], *overrides)
    run.wait_for(stage, rank=0 if hardware == "cpu" else 1)
    run.send(target, signum)
    _check_end(run, folder, stage, signum)


@pytest.mark.slow
def test_a_signal_to_a_sweep_of_ranks_leaves_no_process(start, tmp_path):
    run = start(*LONG["training"], "hydra.mode=MULTIRUN", "seed=0,1", "hardware=ddp_cpu", "hydra.sweep.dir=sweep")
    run.wait_for("training", rank=1)
    run.send("group", signal.SIGTERM)
    code, seconds, err, left = run.end()
    assert (code, left) == (143, ""), err
    assert seconds < 30
    assert err.strip().splitlines()[-1] == (
        "the sweep stops here; to resume it, repeat the command with hydra.sweep.dir=sweep"
    )
    assert read_metrics(tmp_path / "sweep" / "0")["status"] == "interrupted"
    assert not (tmp_path / "sweep" / "1").exists()


@pytest.fixture
def scontrol(tmp_path):
    """The variables of a SLURM job, with a scontrol that writes its arguments to the file `asked`."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    return {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "fvit", "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def _check_requeued_once(folder):
    assert (folder / "asked").read_text() == "requeue 77\n"
    assert read_metrics(folder / "run")["status"] == "interrupted"
    assert [path.name for path in (folder / "run").rglob("*.ckpt")] == ["last.ckpt"]


@pytest.mark.slow
def test_two_tasks_of_srun_end_together_and_are_requeued_once(start, tmp_path, scontrol):
    """As with --kill-on-bad-exit: when one task has exited, srun sends SIGTERM to the other."""
    job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1"}
    job |= {**scontrol, "MASTER_PORT": free_port(), "SLURM_LOCALID": "0"}
    overrides = [*LONG["training"], "hardware=slurm", *ON_CPU, "hydra.run.dir=run"]
    tasks = [start(*overrides, **job, SLURM_PROCID=str(i), SLURM_NODEID=str(i)) for i in range(2)]
    tasks[1].wait_for("training", rank=1)
    tasks[1].send("parent", signal.SIGUSR1)
    while all(task.process.poll() is None for task in tasks):
        time.sleep(0.05)
    ended = {task.process.poll() for task in tasks}
    for task in tasks:
        task.process.terminate()
    for task in tasks:
        code, seconds, err, left = task.end()
        ended.add(code)
        assert left == "", err
        assert seconds < 30
    # Python has no handlers any more while it exits, so SIGTERM may kill it; a shell reports that as 143 as well.
    assert 143 in ended
    assert ended <= {None, 143, -signal.SIGTERM}
    _check_requeued_once(tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive  # as the tasks of srun
def test_ranks_of_torchrun_end_together_and_their_job_is_requeued_once(start, tmp_path, scontrol):
    task = {**scontrol, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    run = start(*LONG["training"], "hardware=torchrun", *ON_CPU, "hydra.run.dir=run", by=TORCHRUN, **task)
    run.wait_for("training", rank=1)
    run.send("rank1", signal.SIGUSR1)
    code, _, err, left = run.end()
    assert (code, left) == (1, ""), err  # torchrun's own, if any rank fails
    assert "exitcode  : 143" in err
    _check_requeued_once(tmp_path)


SHORT = [*TINY, "data.num_images=64", "debug=limit", "trainer.max_epochs=2"]


@pytest.mark.slow
def test_a_signal_stops_a_sweep(main, tmp_path):
    tell = ["+callbacks.tell._target_=tests.moments.Tell", "+callbacks.tell.stage=training", "+callbacks.tell.epoch=1"]
    done = main("train", "-m", *SHORT, *tell, "+callbacks.tell.batch=99,0,1", "hydra.sweep.dir=sweep")
    assert done.returncode == 143
    assert done.stderr.strip().splitlines()[-1] == (
        "the sweep stops here; to resume it, repeat the command with hydra.sweep.dir=sweep"
    )
    assert "stopped by SIGTERM" in done.stderr
    states = [read_metrics(tmp_path / "sweep" / str(job)) for job in range(3)]
    assert [state and state["status"] for state in states] == ["finished", "interrupted", None]
    table = done.stdout[done.stdout.rindex("Sweep") :]
    assert [word for word in table.split() if word in ("finished", "interrupted")] == ["finished", "interrupted"]


def test_a_slurm_job_is_requeued_once(main, tmp_path, monkeypatch):
    """Also if SIGTERM comes after the checkpoint, as srun and torchrun send it to the remaining ranks."""
    monkeypatch.setattr(signals, "_ECHO_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(run_dir, "write_metrics", _with_signal(run_dir.write_metrics))
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nkill $PPID\nsleep 0.2\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    job = {"JOB_ID": "7", "JOB_NAME": "fvit", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    tell = ["+callbacks.tell._target_=tests.moments.Tell", "+callbacks.tell.stage=training", "+callbacks.tell.epoch=0"]
    tell += ["+callbacks.tell.batch=0", f"+callbacks.tell.signum={int(signal.SIGUSR1)}"]
    done = main("train", *SHORT, *tell, "hydra.run.dir=run")
    assert done.returncode == 143
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert "SLURM has requeued job 7" in done.stderr
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["last.ckpt"]
    assert run_dir.read_metrics(tmp_path / "run")["status"] == "interrupted"


def _with_signal(write_metrics):
    def write(folder, status, *args, **kwargs):
        if status == "interrupted":
            os.kill(os.getpid(), signal.SIGTERM)
        write_metrics(folder, status, *args, **kwargs)

    return write


def test_a_signal_stops_an_evaluation(main, tmp_path, monkeypatch):
    assert main("train", *SHORT, "hydra.run.dir=run").returncode == 0
    monkeypatch.setattr(Classifier, "validation_step", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    done = main("eval", "ckpt_path=run", "hydra.run.dir=measured")
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (143, "stopped by SIGTERM")
    assert read_metrics(tmp_path / "measured")["status"] == "interrupted"
