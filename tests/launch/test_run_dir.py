import json
import os
import signal
import subprocess
import sys

import pytest

from fvit.config.errors import RunError
from fvit.launch.run_dir import Record, environment, note_failure, outcome, read_metrics, write_metrics


def test_a_finished_run_says_so(tmp_path):
    with Record(tmp_path / "run", {"seed": 1}) as record:
        assert read_metrics(tmp_path / "run")["status"] == "running"
        record.finish({"val/acc1": 0.5})
    saved = read_metrics(tmp_path / "run")
    assert (saved["status"], saved["error"], saved["metrics"]) == ("finished", None, {"val/acc1": 0.5})
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed: 1\n"
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["packages"]["torch"]


@pytest.mark.parametrize("active", [True, False])
def test_what_was_found_out_since_is_noted(tmp_path, active):
    with Record(tmp_path, {"width": None}, active=active) as record:
        assert record.amend({"width": 3}) == {"width": 3}
    path = tmp_path / "config.yaml"
    assert (path.read_text() == "width: 3\n") if active else not path.exists()


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (RunError("the loss is gone"), "failed", "the loss is gone"),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
        (KeyboardInterrupt(), "interrupted", None),
    ],
)
def test_a_run_that_ends_early_is_never_finished(tmp_path, error, status, text):
    with pytest.raises(type(error)), Record(tmp_path, {}):
        raise error
    saved = read_metrics(tmp_path)
    assert (saved["status"], saved["error"]) == (status, text)


def test_where_an_unexpected_error_came_from_is_kept_until_the_next_start(tmp_path):
    path = tmp_path / "traceback.log"
    with pytest.raises(ZeroDivisionError), Record(tmp_path, {}):
        1 / 0  # noqa: B018
    assert path.read_text().endswith("ZeroDivisionError: division by zero\n")
    assert "1 / 0" in path.read_text()
    with Record(tmp_path, {}):
        assert not path.exists()


def test_other_ranks_write_nothing(tmp_path):
    with Record(tmp_path / "run", {}, active=False):
        pass
    assert not (tmp_path / "run").exists()


def test_no_partial_file_remains(tmp_path):
    with Record(tmp_path, {}):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "environment.json", "metrics.json"]


def test_environment_names_command_versions_and_machine():
    facts = environment()
    assert {"time", "command", "git_commit", "git_dirty", "python", "machine", "packages"} <= set(facts)


def test_a_run_whose_process_is_gone_was_cut(tmp_path):
    write_metrics(tmp_path, "running", {})
    assert outcome(tmp_path)["status"] == "running"  # this process
    saved = read_metrics(tmp_path)
    for process, status in (
        ({**saved["process"], "started": "1"}, "cut"),  # the number was given to another process since
        ({**saved["process"], "host": "elsewhere", "started": "1"}, "running"),  # nobody knows
    ):
        (tmp_path / "metrics.json").write_text(json.dumps({**saved, "process": process}))
        assert outcome(tmp_path)["status"] == status


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_is_gone_even_before_its_parent_has_noticed(tmp_path, signum):
    body = f"import time; from fvit.launch.run_dir import *; write_metrics(Path({str(tmp_path)!r}), 'running', {{}})"
    with subprocess.Popen([sys.executable, "-c", f"{body}; print(flush=True); time.sleep(60)"], stdout=-1) as process:
        process.stdout.readline()
        assert outcome(tmp_path)["status"] == "running"
        process.send_signal(signum)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert outcome(tmp_path)["status"] == "cut"


def test_without_proc_the_number_of_the_process_decides(tmp_path, monkeypatch):
    monkeypatch.setattr("fvit.launch.run_dir._started", lambda pid: None)
    write_metrics(tmp_path, "running", {})
    assert outcome(tmp_path)["status"] == "running"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    saved = read_metrics(tmp_path)
    saved["process"]["pid"] = gone.pid
    (tmp_path / "metrics.json").write_text(json.dumps(saved))
    assert outcome(tmp_path)["status"] == "cut"


def test_a_run_that_goes_on_keeps_its_first_environment_and_counts_its_seconds_on(tmp_path):
    with Record(tmp_path, {}) as record:
        record.started -= 100
    first = json.loads((tmp_path / "environment.json").read_text())
    for starts in (1, 2):
        with Record(tmp_path, {}, goes_on=True) as record:
            assert 100 * starts <= record.seconds < 100 * starts + 50
            record.started -= 100
            record.note_time()
            assert read_metrics(tmp_path)["status"] == "running"
            assert read_metrics(tmp_path)["seconds"] >= 100 * (starts + 1)
        noted = json.loads((tmp_path / "environment.json").read_text())
        assert len(noted.pop("resumed")) == starts
        assert noted == first
    with Record(tmp_path, {}) as record:
        assert record.seconds < 50
    assert "resumed" not in json.loads((tmp_path / "environment.json").read_text())


def test_the_overrides_that_a_run_accepted_are_noted(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    with Record(tmp_path, {}):
        pass
    assert (tmp_path / "overrides.yaml").read_text() == "- seed=1\n"


def test_an_error_before_the_record_began_takes_the_place_of_an_older_one(tmp_path):
    assert note_failure(tmp_path, "first")
    assert (read_metrics(tmp_path)["status"], read_metrics(tmp_path)["error"]) == ("failed", "first")
    write_metrics(tmp_path, "killed", {"val/acc1": 0.5}, 3.0, error="second")
    assert note_failure(tmp_path, "second")  # as the launcher noted it
    assert read_metrics(tmp_path)["status"] == "killed"
    assert note_failure(tmp_path, "third")
    saved = read_metrics(tmp_path)
    assert (saved["status"], saved["error"], saved["metrics"], saved["seconds"]) == (
        "failed",
        "third",
        {"val/acc1": 0.5},
        3.0,
    )
