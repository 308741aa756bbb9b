import pytest

from fvit.reports.runs.collect import collect_runs
from fvit.reports.runs.groups import MeanCI, rank_runs
from fvit.reports.runs.tables import (
    METRICS,
    NOTE,
    TEST_NOTE,
    duration,
    leaderboard,
    metrics_of,
    notes,
    run_table,
    with_interval,
)
from tests.reports.runs.folders import write_lived_in, write_lr_run, write_run, write_sweep


def lines(table):
    return [dict(zip(table.head, row, strict=True)) for row in table.rows]


def board(folder, metric=METRICS[0]):
    return leaderboard(rank_runs(collect_runs([folder]), "softmax")[0], "softmax", metric)


def test_means_intervals_and_differences(tmp_path):
    write_sweep(tmp_path)
    additive, softmax = lines(board(tmp_path))
    assert additive == {
        "attention": "additive",
        "model": "vit_atto",
        "seeds": "3",
        "accuracy, %": "93.00 ± 6.57",  # t(2) = 4.303, s = 2.646
        "vs softmax, points": "+2.00 ± 6.57 (3)",  # 1, 0, 5
        "params, M": "0.227",
        "MACs, M": "3.31",
        "images/s": "2,000",
        "memory, GiB": "0.90",
        "time": "1 min 01 s",
    }
    assert softmax["accuracy, %"] == "91.00 ± 2.48"
    assert softmax["vs softmax, points"] == "–"
    assert additive["accuracy, %"].value == pytest.approx(0.93)


def test_missing_values_are_dashes(tmp_path):
    write_run(tmp_path / "a", accuracy=0.9)
    write_run(tmp_path / "b", "softmax", accuracy=0.95, metrics={"val/acc1": 0.95})
    write_run(tmp_path / "c", "linear", seed=0, status="running")
    write_run(tmp_path / "d", "linear", seed=1, status="running")
    softmax, additive, linear = lines(board(tmp_path))
    assert (additive["accuracy, %"], additive["vs softmax, points"]) == ("90.00", "−5.00 (1)")
    assert (softmax["params, M"], softmax["images/s"]) == ("–", "–")
    assert linear["seeds"] == "0 of 2"
    assert {cell for head, cell in linear.items() if head not in ("attention", "model", "seeds")} == {"–"}


def test_empty_columns_are_left_out(tmp_path):
    write_run(tmp_path / "a", metrics={"val/acc1": 0.95})
    assert board(tmp_path).head == ["attention", "model", "seeds", "accuracy, %", "time"]


def test_a_test_has_a_column_and_a_note_and_ranks_nothing(tmp_path):
    write_run(tmp_path / "a", "softmax", metrics={"val/acc1": 0.95, "test/acc1": 0.5})
    assert notes(rank_runs(collect_runs([tmp_path]), "softmax")) == [NOTE, TEST_NOTE]
    write_run(tmp_path / "b", "linear", metrics={"val/acc1": 0.9, "test/acc1": 0.8})
    write_run(tmp_path / "c", "additive", metrics={"val/acc1": 0.8})
    softmax, linear, additive = lines(board(tmp_path))
    assert [row["test, %"] for row in (softmax, linear, additive)] == ["50.00", "80.00", "–"]
    assert [metric.key for metric in metrics_of(rank_runs(collect_runs([tmp_path]), "softmax")[0])] == ["val/acc1"]
    write_run(tmp_path / "other" / "d", metrics={"val/acc1": 0.9})
    assert notes(rank_runs(collect_runs([tmp_path / "other"]), "softmax")) == [NOTE]


def test_lived_in_logs_have_the_columns_of_any_other(tmp_path):
    write_lived_in(tmp_path)
    found = board(tmp_path)
    costs = ["params, M", "MACs, M", "images/s", "memory, GiB", "time"]
    assert found.head == ["attention", "model", "settings", "seeds", "accuracy, %", "vs softmax, points", *costs]
    assert [row[:3] for row in found.rows] == [
        ["additive", "vit_atto", "callbacks=ema"],
        ["additive", "vit_atto", ""],
        ["softmax", "vit_atto", ""],
    ]


def test_each_metric_has_its_own_ranking(tmp_path):
    write_run(tmp_path / "a", metrics={"val/acc1": 0.9, "best/val/acc1": 0.91, "val/loss": 0.5})
    write_run(tmp_path / "b", "softmax", metrics={"val/acc1": 0.8, "best/val/acc1": 0.95, "val/loss": 0.25})
    [ranking] = rank_runs(collect_runs([tmp_path]), "softmax")
    accuracy, best, loss = metrics_of(ranking)
    columns = {one: leaderboard(ranking, "softmax", one) for one in (accuracy, best, loss)}
    assert [[row[0] for row in table.rows] for table in columns.values()] == [
        ["additive", "softmax"],
        ["softmax", "additive"],
        ["softmax", "additive"],
    ]
    additive = lines(columns[loss])[1]
    assert (additive["loss"], additive["vs softmax"]) == ("0.5000", "+0.2500 (1)")
    assert lines(columns[best])[1]["vs softmax, points"] == "−4.00 (1)"


def test_macs_of_large_models_are_in_billions(tmp_path):
    write_run(tmp_path / "a", metrics={"val/acc1": 0.9, "cost/macs": 17.6e9, "cost/params": 86.6e6})
    [line] = lines(board(tmp_path))
    assert (line["MACs, G"], line["params, M"]) == ("17.6", "86.6")


def test_the_run_table_has_every_run(tmp_path):
    write_lr_run(tmp_path / "a", 0.1)
    write_run(tmp_path / "b", status="failed", seed=5)
    (tmp_path / "c" / ".hydra").mkdir(parents=True)
    write_run(tmp_path / "d", choices={"debug": "limit"})
    runs = collect_runs([tmp_path])
    found = lines(run_table(runs, rank_runs(runs, "softmax")))
    assert [line["status"] for line in found] == ["finished", "failed", "not started", "finished"]
    assert [line["leaderboard row"] for line in found] == ["additive", "–", "–", "debug"]
    assert [line["accuracy, %"] for line in found] == ["90.00", "–", "–", "90.00"]
    assert [line["seed"] for line in found] == ["0", "5", "–", "0"]


@pytest.mark.parametrize(
    ("found", "is_difference", "text"),
    [
        (None, False, "–"),
        (MeanCI(0.5, None, 1), False, "50.00"),
        (MeanCI(0.5, 0.0, 3), False, "50.00 ± 0.00"),
        (MeanCI(-0.01, 0.02, 3), True, "−1.00 ± 2.00 (3)"),
    ],
)
def test_percentages(found, is_difference, text):
    assert with_interval(found, 100, is_difference) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3660, "1 h 01 min"), (180_000, "2 d 2 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
