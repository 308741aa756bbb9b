"""metrics.json: what became of a run, also of one that could not write it."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fvit.launch.record import note_elapsed, outcome, read_metrics, write_metrics


def test_run_whose_process_has_ended_has_crashed(tmp_path):
    write_metrics(tmp_path, "running", {})
    assert outcome(tmp_path)["status"] == "running"  # this process
    saved = read_metrics(tmp_path)
    for process, status in (
        ({**saved["process"], "started": "1"}, "crashed"),  # another process has this number now
        ({**saved["process"], "host": "elsewhere", "started": "1"}, "running"),  # nobody knows
    ):
        (tmp_path / "metrics.json").write_text(json.dumps({**saved, "process": process}))
        assert outcome(tmp_path)["status"] == status


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_killed_process_has_ended_even_before_its_parent_has_noticed(tmp_path, signum):
    body = f"import time; from fvit.launch.record import *; write_metrics(Path({str(tmp_path)!r}), 'running', {{}})"
    with subprocess.Popen([sys.executable, "-c", f"{body}; print(flush=True); time.sleep(60)"], stdout=-1) as process:
        process.stdout.readline()
        assert outcome(tmp_path)["status"] == "running"
        process.send_signal(signum)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert outcome(tmp_path)["status"] == "crashed"


def test_process_number_decides_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr("fvit.launch.record._started", lambda pid: None)
    write_metrics(tmp_path, "running", {})
    assert outcome(tmp_path)["status"] == "running"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    saved = read_metrics(tmp_path)
    saved["process"]["pid"] = gone.pid
    (tmp_path / "metrics.json").write_text(json.dumps(saved))
    assert outcome(tmp_path)["status"] == "crashed"


def test_killed_run_has_the_seconds_of_its_last_checkpoint(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("fvit.launch.record.time", SimpleNamespace(time=lambda: now[0]))
    write_metrics(tmp_path, "running", {"val/acc1": 0.5}, 10.0)
    for seconds in (30.0, 70.0):
        now[0] += seconds
        note_elapsed(tmp_path)
    saved = read_metrics(tmp_path)
    assert (saved["status"], saved["seconds"], saved["metrics"]) == ("running", 110.0, {"val/acc1": 0.5})
    write_metrics(tmp_path, "finished", {}, 1.0)
    note_elapsed(tmp_path)
    assert read_metrics(tmp_path)["seconds"] == 1.0
    note_elapsed(tmp_path / "elsewhere")  # a Trainer without a run directory
