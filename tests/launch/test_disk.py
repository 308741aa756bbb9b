import errno
import inspect
import multiprocessing.synchronize
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback

from fvit.config.errors import RunError, explain
from fvit.launch import disk, processes, staging
from fvit.launch.record import read_metrics
from fvit.launch.run_dir import RunDir
from fvit.launch.signals import Stopped
from fvit.train import train

ROOT = Path(__file__).parents[2]
TINY = [
    "data=fake",
    "data.num_images=64",
    "model.embed_dim=24",
    "model.depth=1",
    "global_batch_size=16",
    "trainer.max_epochs=3",
    "scheduler.warmup_epochs=0",
    "logger=none",
]


class LimitFiles(Callback):
    """From the second epoch on, files are limited to `size` bytes."""

    def __init__(self, size):
        self.size = size

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class Fill(Callback):
    """Fills the disk in the second epoch."""

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1 and trainer.is_global_zero:
            _fill(Path(trainer.default_root_dir))


def _fill(folder):
    room = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(room.f_bavail * room.f_bsize))


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def _check_end(folder, error, reason):
    text = str(error.value)
    last = folder / "checkpoints" / "last.ckpt"
    assert text.startswith(f"{reason}: cannot write to {folder}, which has ")
    assert f"The last good checkpoint is {last}" in text
    assert f"{last.stat().st_size / 2**20:,.1f} MiB" in text
    saved = torch.load(last, weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (0, 4)
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.ckpt", "last.ckpt"]
    return text


def test_a_file_size_limit_ends_a_run_and_leaves_the_last_checkpoint(compose_config, tmp_path):
    limit = [f"+callbacks.limit._target_={__name__}.LimitFiles", "+callbacks.limit.size=20000"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(RunError) as error:
            train(compose_config(*TINY, *limit))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    text = _check_end(tmp_path / "run", error, "the file would exceed the size limit (ulimit -f)")
    assert read_metrics(tmp_path / "run")["status"] == "failed"
    assert read_metrics(tmp_path / "run")["error"] == text


def test_the_error_of_torch_for_a_full_disk_is_explained(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, before[1]))
        with (
            pytest.raises(RunError, match=r"the disk may be full .* no checkpoint was saved yet"),
            disk.explaining(tmp_path),
        ):
            torch.save(torch.zeros(20000), tmp_path / "checkpoint")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), RuntimeError("shapes differ"), ValueError("1")])
def test_other_errors_pass(tmp_path, error):
    with pytest.raises(type(error)) as caught, disk.explaining(tmp_path):
        raise error
    assert caught.value is error


def test_no_room_in_shared_memory_is_not_a_full_disk(tmp_path, monkeypatch):
    """Where the semaphores of data loader processes are."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def start():
        try:
            multiprocessing.Lock()
        finally:
            raise RuntimeError("as Lightning's teardown does")

    monkeypatch.setattr("_multiprocessing.SemLock", full)
    with pytest.raises(RunError, match=r"^/dev/shm is full"), disk.explaining(tmp_path):
        start()


def test_a_full_disk_is_reported_without_a_file_name():
    """As in a job of a sweep whose directory Hydra cannot write."""
    assert explain(OSError(errno.ENOSPC, "No space left on device")).startswith("the disk is full: free some space")


def test_a_full_disk_does_not_hide_why_a_run_failed(small_disk, capsys):
    def fail(run):
        run.log_start(SimpleNamespace(source=SimpleNamespace(records={})), {})
        _fill(small_disk)
        raise RunError("the loss is gone")

    trainer = SimpleNamespace(is_global_zero=True, loggers=[], callbacks=[], checkpoint_callbacks=[])
    with pytest.raises(RunError, match="the loss is gone"), RunDir({"output_dir": str(small_disk)}, trainer) as run:
        fail(run)
    assert capsys.readouterr().err == f"{small_disk}/metrics.json could not be written: No space left on device\n"
    assert read_metrics(small_disk)["status"] == "running"
    assert not [path.name for path in small_disk.iterdir() if path.name.endswith(".partial")]


def test_a_full_disk_does_not_hide_why_a_rank_failed(small_disk, monkeypatch, capsys):
    def fail(config):
        _fill(small_disk)
        raise RunError("the loss is gone")

    monkeypatch.setenv("LOCAL_RANK", "0")
    (small_disk / staging.name()).mkdir()
    with pytest.raises(SystemExit) as stop:
        processes.run_as_rank(fail, {"output_dir": str(small_disk)})
    assert stop.value.code == 1
    assert capsys.readouterr().err.endswith("\nthe loss is gone\n")


def _launch(folder, tmp_path, monkeypatch, end):
    """Launch one rank that fills the disk and then exits by `end`."""
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    # Its source, because this file imports torch.
    lines = [
        "import os, sys",
        "from pathlib import Path",
        "from fvit.launch.record import write_metrics",
        f"write_metrics(Path({str(folder)!r}), 'running', {{}})",
        inspect.getsource(_fill),
        f"_fill(Path({str(folder)!r}))",
        end,
    ]
    (tmp_path / "fake_task.py").write_text("\n".join(lines))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    processes.launch("fake_task", {}, folder, 1)


@pytest.mark.slow
def test_a_rank_that_could_not_record_its_error_is_reported_with_the_last_checkpoint(small_disk, tmp_path, monkeypatch):
    with pytest.raises(RunError, match="rank 0 exited with code 1\nthe disk is full: ") as error:
        _launch(small_disk, tmp_path, monkeypatch, "sys.exit(1)")
    assert f"The last good checkpoint is {small_disk}/checkpoints/last.ckpt" in str(error.value)


def test_a_full_disk_does_not_turn_a_signal_into_a_failure(small_disk, tmp_path, monkeypatch, capsys):
    with pytest.raises(Stopped):
        _launch(small_disk, tmp_path, monkeypatch, "sys.exit(143)")
    assert "metrics.json could not be written" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.exhaustive  # test_processes.py has ranks that fail and say why
def test_two_processes_on_a_full_disk_report_it_with_the_last_checkpoint(fvit, small_disk):
    run = small_disk / "run"
    fill = f"+callbacks.fill._target_={__name__}.Fill"
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = fvit("train", *TINY, fill, "hardware=ddp_cpu", f"hydra.run.dir={run}", PYTHONPATH=path)
    assert done.returncode == 1
    assert (
        f"error: rank 0 exited with code 1\nthe disk is full: cannot write to {run}, which has 0.0 MiB" in done.stderr
    )
    assert f"The last good checkpoint is {run}/checkpoints/last.ckpt" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
