"""The command line of fvit-dashboard."""

import json
import os
import re
import subprocess
import sys
from functools import partial

import pytest

from fvit import dashboard
from tests.reports.dashboard.cloud import OWNER, cloud
from tests.reports.runs.folders import write_benchmark


@pytest.fixture
def run(main):
    """Runs the command in this process, in an empty folder."""
    return partial(main, "dashboard")


def run_process(folder, server=None, *arguments):
    """Runs the command in its own process, since wandb reads its environment once; with a key for `server`, if any."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment["HOME"] = str(folder)  # where wandb looks for a key
    if server:
        environment |= {"WANDB_BASE_URL": server, "WANDB_API_KEY": "0" * 40}
    command = [sys.executable, "-m", "fvit.dashboard", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def specifications(folder):
    return [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("workspace", "report")]


def test_offline_it_writes_the_specifications(run, tmp_path):
    done = run("project=digits", "name=Digits", "entity=team")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not saved      W&B's mode is offline; needs `wandb login` and WANDB_MODE=online" in done.stdout
    assert "none in logs/bench; `fvit-bench` makes one" in done.stdout
    assert "/report.json" in done.stdout
    workspace, report = specifications(tmp_path / "logs" / "dashboard")
    assert [workspace[key] for key in ("entity", "project", "displayName")] == ["team", "digits", "Digits"]
    assert report["project"] == {"name": "digits", "entityName": "team"}
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}, "Hydra writes nothing"


def test_the_newest_readable_benchmark_is_shown(run, tmp_path):
    for name in ("2025", "2026"):
        write_benchmark(tmp_path / "logs" / "bench" / name)
    (tmp_path / "logs" / "bench" / "2027").mkdir()
    (tmp_path / "logs" / "bench" / "2027" / "bench.json").write_text("{")
    assert "benchmark      2026: attention=additive,softmax" in run().stdout
    assert "Cost measured by fvit-bench, 2026" in (tmp_path / "logs" / "dashboard" / "workspace.json").read_text()
    assert "benchmark" not in run("bench=null", "out=here").stdout
    assert "fvit-bench" not in (tmp_path / "here" / "workspace.json").read_text()


def test_without_a_key_it_says_how_to_get_one(tmp_path):
    done = run_process(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not saved      no API key; needs `wandb login` and WANDB_MODE=online" in done.stdout
    assert len(specifications(tmp_path / "logs" / "dashboard")) == 2


@pytest.mark.slow
def test_with_a_key_it_saves_what_it_wrote(tmp_path):
    write_benchmark(tmp_path / "logs" / "bench" / "2026")
    with cloud() as server:
        done = run_process(tmp_path, server.url, "project=digits", "name=Digits")
    assert done.returncode == 0, done.stderr
    for view, url in (("report", rf"{OWNER}/digits/reports/Digits--VIEW"), ("workspace", rf"{OWNER}/digits\?nw=\w+")):
        assert re.search(rf"^ {view} +{server.url}/{url}$", done.stdout, flags=re.MULTILINE)
    assert "not saved" not in done.stdout
    workspace, report = specifications(tmp_path / "logs" / "dashboard")
    for written, kind in ((workspace, "project-view"), (report, "runs")):
        sent = server.views[kind]
        assert json.loads(sent["spec"]) == written["spec"]
        assert (sent["entityName"], sent["projectName"], sent["displayName"]) == (OWNER, "digits", "Digits")
    logged = {run["displayName"]: (run["jobType"], run["groupName"], run["project"]) for run in server.runs.values()}
    assert logged == {f"2026 vit_tiny {name}": ("bench", "2026", "digits") for name in ("additive", "softmax")}
    for rows in server.rows.values():
        assert [(row["bench/tokens"], row["bench/latency_ms"]) for row in rows] == [(197, 394), (577, 1154)]
    assert len(server.rows) == 2


@pytest.mark.slow
def test_a_refusal_by_the_server_is_an_error_after_the_specifications(tmp_path):
    with cloud(accepts=False) as server:
        done = run_process(tmp_path, server.url)
    assert done.returncode == 1
    assert "error: the W&B server refused: input: no such project" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(specifications(tmp_path / "logs" / "dashboard")) == 2


def test_an_unreachable_server_is_not_an_error(run, tmp_path, monkeypatch):
    reason = "https://api.wandb.ai does not answer"
    monkeypatch.setattr("fvit.loggers.wandb_server.choose_mode", lambda: ("offline", reason))
    done = run()
    assert done.returncode == 0
    assert f"not saved      {reason}; needs `wandb login` and WANDB_MODE=online" in done.stdout
    assert len(specifications(tmp_path / "logs" / "dashboard")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grup_by=title"], "unknown key grup_by, did you mean group_by"),
        (["settings=[]"], "settings=[]"),
        (["project=''"], "project=''"),
        (["project=team/vits"], "project=team/vits: W&B"),
    ],
)
def test_a_mistake_ends_in_one_message_and_leaves_nothing(run, tmp_path, arguments, message):
    done = run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_missing_package_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    done = run()
    assert done.returncode == 1
    assert "error: fvit-dashboard needs wandb-workspaces: pip install 'fvit[dashboard]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_keys_and_fits_a_screen(run):
    text = run("--help").stdout
    assert len(text.splitlines()) <= 40
    for word in ("entity", "project", "name", "group_by", "settings", "bench", "out"):
        assert re.search(rf"^ .*\b{word}\b", text, flags=re.MULTILINE), word
