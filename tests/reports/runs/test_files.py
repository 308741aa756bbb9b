import csv
import io

import pytest

from fvit.reports.runs.files import counted, groups_csv, markdown, runs_csv
from fvit.reports.runs.gather import gather
from fvit.reports.runs.groups import group
from fvit.reports.runs.tables import leaderboard
from tests.reports.runs.folders import write_run, write_sweep


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def runs(tmp_path):
    write_sweep(tmp_path)
    write_run(tmp_path / "x", "linear", accuracy=0.5, overrides=["optimizer.lr=1"], optimizer__lr=1)
    failed = write_run(tmp_path / "z", "linear", status="failed", error="out of memory", optimizer__lr=2)
    (failed / "train.log").write_text("the last\n```\nline")
    return gather([tmp_path])


def test_rows_as_csv(runs):
    additive, softmax, linear, failed = read(groups_csv(group(runs, "softmax")))
    assert (additive["rank"], additive["attention"], additive["seeds"], additive["optimizer.lr"]) == (
        "1",
        "additive",
        "3",
        "0.002",
    )
    assert float(additive["val/acc1"]) == pytest.approx(0.93)
    assert float(additive["val/acc1_half"]) == pytest.approx(0.0657, abs=1e-4)
    assert float(additive["difference"]) == pytest.approx(0.02)
    assert (additive["difference_n"], softmax["difference"], softmax["difference_half"]) == ("3", "", "")
    assert (linear["val/acc1"], linear["val/acc1_half"], linear["val/acc1_n"]) == ("0.5", "", "1")
    assert (failed["val/acc1"], failed["seeds"], failed["runs"]) == ("", "0", "1")


def test_runs_as_csv(runs):
    lines = read(runs_csv(runs, group(runs, "softmax")))
    assert len(lines) == 8
    found = {line["run"]: line for line in lines}
    assert found["1"] | {"status": "finished", "seed": "1", "attention": "additive", "val/acc1": "0.92"} == found["1"]
    assert found["z"] | {"status": "failed", "error": "out of memory", "val/acc1": ""} == found["z"]


def test_as_markdown(runs):
    text = markdown("logs/train", runs, leaderboard(group(runs, "softmax"), "softmax"))
    assert text.startswith("# Runs in logs/train\n\n8 runs: 7 finished, 1 failed. Written ")
    assert "| additive | 0.002 | 3 | 93.00 ± 6.57 | +2.00 ± 6.57 (3) |" in text
    assert "**z**: failed\n\n````text\nout of memory\ntrain.log:\nthe last\n```\nline\n````\n" in text


def test_statuses_are_counted(runs):
    assert counted(runs) == "8 runs: 7 finished, 1 failed"
    assert counted(runs[:1]) == "1 run: 1 finished"
