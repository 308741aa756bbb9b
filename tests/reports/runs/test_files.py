import csv
import io

import pytest

from fvit.reports.runs.collect import collect_runs
from fvit.reports.runs.files import count_runs, groups_csv, markdown, runs_csv
from fvit.reports.runs.groups import rank_runs
from tests.reports.runs.folders import write_lr_run, write_run, write_sweep


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def runs(tmp_path):
    write_sweep(tmp_path)
    write_lr_run(tmp_path / "x", 1, "linear", accuracy=0.5)
    failed = write_run(tmp_path / "z", "linear", status="failed", error="out of memory", optimizer__lr=2)
    (failed / "train.log").write_text("the last\n```\nline")
    return collect_runs([tmp_path])


def test_groups_as_csv(runs):
    additive, softmax, linear = read(groups_csv(rank_runs(runs, "softmax")))
    named = {"data": "digits", "rank": "1", "attention": "additive", "model": "vit_atto", "seeds": "3"}
    assert additive | named | {"settings": "optimizer.lr=0.002"} == additive
    assert not [column for column in additive if column.startswith(("callbacks", "logger", "optimizer"))]
    assert float(additive["val/acc1"]) == pytest.approx(0.93)
    assert float(additive["val/acc1_half"]) == pytest.approx(0.0657, abs=1e-4)
    assert float(additive["difference"]) == pytest.approx(0.02)
    assert (additive["difference_n"], softmax["difference"], softmax["difference_half"]) == ("3", "", "")
    assert (linear["val/acc1"], linear["val/acc1_half"], linear["val/acc1_n"]) == ("0.5", "", "1")


def test_runs_as_csv(runs):
    lines = read(runs_csv(runs, rank_runs(runs, "softmax")))
    assert len(lines) == 8
    found = {line["run"]: line for line in lines}
    assert found["1"] | {"status": "finished", "seed": "1", "attention": "additive", "val/acc1": "0.92"} == found["1"]
    assert found["z"] | {"status": "failed", "error": "out of memory", "val/acc1": ""} == found["z"]


def test_markdown(runs):
    text = markdown("logs/train", runs, rank_runs(runs, "softmax"), "softmax")
    assert text.startswith("# Runs in logs/train\n\n8 runs: 7 finished, 1 failed. Written ")
    assert "## Leaderboard: digits\n\n| attention | model |" in text
    assert "| additive | vit_atto |  | 3 | 93.00 ± 6.57 | +2.00 ± 6.57 (3) |" in text
    assert "| linear | vit_atto | lr=1 | 1 |" in text
    assert "\n\nUnless listed: lr=0.002\n\n" in text
    assert "## Failed\n\n**z**: failed\n\n````text\nout of memory\ntrain.log:\nthe last\n```\nline\n````\n" in text


def test_statuses_are_counted(runs):
    assert count_runs(runs) == "8 runs: 7 finished, 1 failed"
    assert count_runs(runs[:1]) == "1 run: 1 finished"
