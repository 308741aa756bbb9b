import csv

import pytest

from fvit.loggers.csv import CSVLogger


def logged(folder, first, rows, newest=()):
    """A start of a run at step `first`, which logs (step, metrics)."""
    logger = CSVLogger(folder, name="csv", version="")
    logger.log_hyperparams({"seed": 0})
    logger.resume(first, dict(newest))
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
        logger.save()
    logger.finalize("success")


def read(folder):
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


FIRST = [(0, {"train/loss": 3.0}), (1, {"train/loss": 2.0}), (1, {"val/acc1": 0.5}), (2, {"train/loss": 1.5})]


def test_steps_trained_again_have_one_row(tmp_path):
    logged(tmp_path, 0, FIRST)
    logged(tmp_path, 2, [(2, {"train/loss": 1.25}), (3, {"train/loss": 1.0, "extra": 7})])
    assert read(tmp_path) == [
        {"step": "0", "train/loss": "3.0"},
        {"step": "1", "train/loss": "2.0"},
        {"step": "1", "val/acc1": "0.5"},
        {"step": "2", "train/loss": "1.25"},
        {"step": "3", "train/loss": "1.0", "extra": "7"},
    ]


def test_repeated_validation_has_one_row(tmp_path):
    logged(tmp_path, 0, FIRST)
    logged(tmp_path, 2, [(1, {"val/acc1": 0.75}), (2, {"train/loss": 1.5})])
    assert [row for row in read(tmp_path) if "val/acc1" in row] == [{"step": "1", "val/acc1": "0.75"}]
    assert len(read(tmp_path)) == 4


def test_new_run_starts_an_empty_file(tmp_path):
    logged(tmp_path, 0, FIRST)
    logged(tmp_path, 0, [(0, {"other": 1.0})])
    assert read(tmp_path) == [{"step": "0", "other": "1.0"}]


def test_rows_stay_when_nothing_is_left_to_train(tmp_path):
    logged(tmp_path, 0, FIRST)
    logger = CSVLogger(tmp_path, name="csv", version="")
    logger.log_hyperparams({"seed": 0})
    logger.finalize("success")
    assert len(read(tmp_path)) == 4


@pytest.mark.parametrize("torn", ["2,1.", "2", ""])
def test_incomplete_row_is_dropped(tmp_path, torn):
    logged(tmp_path, 0, FIRST[:2])
    with (tmp_path / "csv" / "metrics.csv").open("a") as file:
        file.write(torn)
    logged(tmp_path, 9, [(9, {"train/loss": 0.5})])
    assert [row["step"] for row in read(tmp_path)] == ["0", "1", "9"]


def test_row_that_was_not_written_is_taken_from_the_checkpoint(tmp_path):
    newest = {"train/loss": 1.5, "step": 2}
    for written in (3, 4):
        logged(tmp_path / str(written), 0, FIRST[:written])
        logged(tmp_path / str(written), 3, [(3, {"train/loss": 1.0})], newest)
        assert [row["step"] for row in read(tmp_path / str(written))] == ["0", "1", "1", "2", "3"]
