"""The CSV file of a run's metrics, whole over all of its starts."""

import csv
import os
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment


class CurveLogger(CSVLogger):
    """Lightning's CSVLogger, which keeps the rows of a run that goes on; Lightning's begins an empty file.

    A step that is trained again, because it came after the checkpoint, has one row, the new one.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> "_Writer":
        """The writer of csv/metrics.csv."""
        if self._experiment is None:
            self._experiment = _Writer(log_dir=self.log_dir)
        return self._experiment

    @rank_zero_only
    def begin(self, step: int) -> None:
        """Drop what an earlier start wrote of `step`, counted from 0, and of those after it."""
        self.experiment.begin(step)


class CurveStart(Callback):
    """Tells a `CurveLogger` where a run begins or goes on."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Tell it."""
        for logger in trainer.loggers:
            if isinstance(logger, CurveLogger):
                logger.begin(trainer.global_step)


class _Writer(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._boundary: list[dict[str, str]] = []  # rows of the last step before this start

    def begin(self, step: int) -> None:
        rows = [row for row in self._read() if int(row["step"]) < step]
        self.metrics_keys = sorted({key for row in rows for key, value in row.items() if value != ""})
        self._boundary = [row for row in rows if int(row["step"]) == step - 1]
        if rows:
            self._write(rows)
        elif os.path.isfile(self.metrics_file_path):
            os.remove(self.metrics_file_path)

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics_dict, step)
        # A validation that was done again stands for the step before the first new one.
        again = [row for row in self._boundary if _filled(row) == set(self.metrics[-1]) and int(row["step"]) == step]
        if again:
            self._boundary = [row for row in self._boundary if row not in again]
            self._write([row for row in self._read() if row not in again])

    def _read(self) -> list[dict[str, str]]:
        if not os.path.isfile(self.metrics_file_path):
            return []
        with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
            text = file.read()
        # The last row may be torn, where a process was killed while it wrote.
        return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """Have the file hold these rows; it is never there in part."""
        partial = f"{self.metrics_file_path}.partial"
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, self.metrics_file_path)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._read())

    def _check_log_dir_exists(self) -> None:
        """What is there stays until it is known where the run begins."""


def _filled(row: dict[str, str]) -> set[str]:
    return {key for key, value in row.items() if value != ""}
