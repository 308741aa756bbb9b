import pytest

from fvit.reports.runs.gather import gather
from fvit.reports.runs.groups import group
from fvit.reports.runs.statistics import Estimate
from fvit.reports.runs.tables import duration, leaderboard, measured, run_table, to_html, to_markdown
from tests.reports.runs.folders import write_run, write_sweep


def lines(table):
    return [{head: cell.text for head, cell in zip(table.head, row, strict=True)} for row in table.rows]


def board(folder, baseline="softmax"):
    return leaderboard(group(gather([folder]), baseline), baseline)


def test_means_intervals_and_differences(tmp_path):
    write_sweep(tmp_path)
    additive, softmax = lines(board(tmp_path))
    assert additive == {
        "attention": "additive",
        "seeds": "3",
        "accuracy, %": "93.00 ± 6.57",  # t(2) = 4.303, s = 2.646
        "vs softmax, points": "+2.00 ± 6.57 (3)",  # 1, 0, 5
        "best epoch, %": "93.00 ± 6.57",
        "params, M": "0.227",
        "MACs, M": "3.31",
        "images/s": "2,000",
        "memory, GiB": "0.90",
        "time": "1 min 01 s",
    }
    assert softmax["accuracy, %"] == "91.00 ± 2.48"
    assert softmax["vs softmax, points"] == "–"


def test_one_seed_shows_no_interval_and_missing_metrics_are_dashes(tmp_path):
    write_run(tmp_path / "a", accuracy=0.9)
    write_run(tmp_path / "b", "softmax", accuracy=0.95, metrics={"val/acc1": 0.95})
    write_run(tmp_path / "c", "linear", seed=0, status="failed")
    write_run(tmp_path / "d", "linear", seed=1, status="running")
    softmax, additive, linear = lines(board(tmp_path))
    assert (additive["accuracy, %"], additive["vs softmax, points"]) == ("90.00", "−5.00 (1)")
    assert (softmax["params, M"], softmax["images/s"]) == ("–", "–")
    assert linear["seeds"] == "0 of 2"
    assert {cell for head, cell in linear.items() if head not in ("attention", "seeds")} == {"–"}


def test_columns_that_nobody_fills_are_left_out(tmp_path):
    write_run(tmp_path / "a", metrics={"val/acc1": 0.95})
    assert board(tmp_path).head == ["attention", "seeds", "accuracy, %", "time"]


def test_large_models_are_told_in_billions(tmp_path):
    write_run(tmp_path / "a", metrics={"val/acc1": 0.9, "cost/macs": 17.6e9, "cost/params": 86.6e6})
    [line] = lines(board(tmp_path))
    assert (line["MACs, G"], line["params, M"]) == ("17.6", "86.6")


def test_every_run_has_a_line(tmp_path):
    write_run(tmp_path / "a", overrides=["optimizer.lr=0.1"], optimizer__lr=0.1)
    write_run(tmp_path / "b", status="failed", seed=5)
    (tmp_path / "c" / ".hydra").mkdir(parents=True)
    runs = gather([tmp_path])
    found = lines(run_table(runs, group(runs, "softmax")))
    assert [line["status"] for line in found] == ["finished", "failed", "not started"]
    assert [line["row"] for line in found] == ["additive lr=0.1", "additive lr=0.002", "–"]
    assert [line["accuracy, %"] for line in found] == ["90.00", "–", "–"]
    assert [line["seed"] for line in found] == ["0", "5", "–"]


@pytest.mark.parametrize(
    ("found", "options", "text"),
    [
        (None, {}, "–"),
        (Estimate(0.5, None, 1), {}, "50.00"),
        (Estimate(0.5, 0.0, 3), {}, "50.00 ± 0.00"),
        (Estimate(-0.01, 0.02, 3), dict(sign="+", counted=True), "−1.00 ± 2.00 (3)"),
    ],
)
def test_estimates(found, options, text):
    assert measured(found, 100, **options).text == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3660, "1 h 01 min"), (180_000, "2 d 2 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_markdown_and_html_escape(tmp_path):
    write_run(tmp_path / "a", overrides=["optimizer.opt=x"], optimizer__opt="<b>|y")
    write_run(tmp_path / "b", accuracy=0.1)
    table = board(tmp_path)
    first, rule, line, _ = to_markdown(table).splitlines()
    assert first.startswith("| attention | opt | seeds | accuracy, % |")
    assert rule.startswith("| --- | --- | ---: |")
    assert line.startswith("| additive | <b>\\|y | 1 | 90.00 |")
    text = to_html(table, "board")
    assert "&lt;b&gt;|y" in text
    assert "<b>" not in text
