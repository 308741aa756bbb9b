"""The command line of fvit-report."""

import os
import re
import subprocess
import sys
from functools import partial

import pytest

from tests.reports.runs.folders import write_benchmark, write_run, write_sweep


@pytest.fixture
def run(main):
    """Runs the command in this process, in an empty folder."""
    return partial(main, "report")


def test_a_report_of_runs_and_benchmarks(run, tmp_path):
    write_sweep(tmp_path / "logs" / "train" / "multiruns" / "grid")
    write_run(tmp_path / "logs" / "train" / "runs" / "one", "linear", status="failed", error="out of memory")
    write_benchmark(tmp_path / "logs" / "bench" / "two")
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "93.00 ± 6.57" in done.stdout
    assert "7 runs: 6 finished, 1 failed" in done.stdout
    out = tmp_path / "logs" / "report"
    assert {path.name for path in out.iterdir()} == {"report.html", "report.md", "report.csv", "runs.csv"}
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in ("Runs in logs/train", "out of memory", "Latency at batch size 1", "multiruns/grid/0"):
        assert text in page
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}, "Hydra writes nothing"


def test_folders_baseline_and_output_can_be_chosen(run, tmp_path):
    write_sweep(tmp_path / "a b" / "grid", ["additive"])
    write_sweep(tmp_path / "c" / "grid", ["linear"])
    done = run("a b", "c", "baseline=linear", "out=here", "bench=null")
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "here" / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Runs in a b, c\n")
    assert "vs linear, points" in text
    assert "| +33.00 ± 24.47 (3) |" in text  # 41, 22, 36: s = 9.849


def test_a_long_leaderboard_is_cut_only_on_the_terminal(run, tmp_path):
    for number in range(25):
        write_run(tmp_path / "runs" / str(number), f"mechanism{number}")
    done = run("runs")
    assert "5 more rows in the report" in done.stdout
    assert (tmp_path / "logs" / "report" / "report.md").read_text().count("| mechanism") == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such folder: nowhere; name one that contains runs: fvit-report logs/train"),
        (["empty"], "no runs in empty; `fvit-train` makes one"),
        (["runs", "baseline=linaer"], "baseline=linaer was not trained, did you mean linear?; trained: linear"),
        (["-m", "runs"], "leave -m out"),
        (["runs", "outt=x"], "unknown key outt"),
    ],
)
def test_a_mistake_ends_in_one_message_and_leaves_nothing(run, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "runs" / "a", "linear")
    done = run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "runs"}


def test_it_does_not_import_torch(tmp_path):
    write_sweep(tmp_path / "logs" / "train")
    write_benchmark(tmp_path / "logs" / "bench" / "a")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fvit.report"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    imported = set(re.findall(r"\| +(\w+)$", done.stderr, flags=re.MULTILINE))
    assert "hydra" in imported
    assert not imported & {"torch", "timm", "lightning", "wandb"}


def test_help_lists_the_keys_and_fits_a_screen(run):
    text = run("--help").stdout
    assert len(text.splitlines()) <= 40
    for word in ("FOLDER", "bench", "baseline", "out"):
        assert re.search(rf"^ .*\b{word}\b", text, flags=re.MULTILINE), word
