"""The CSV file of a run's metrics, whole over all of its starts."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from fvit.config.atomic import replacing

_KEY = "curve_row"


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
    def begin(self, step: int, newest: dict[str, float]) -> None:
        """Drop what an earlier start wrote of `step`, counted from 0, and of those after it.

        Args:
            step: the first of this start.
            newest: a row that the earlier start may not have come to write; empty if there is none.
        """
        self.experiment.begin(step, newest)


class CurveStart(Callback):
    """Tells a `CurveLogger` where a run begins or goes on.

    Lightning logs what belongs to a step, or an epoch, after its checkpoint is written. So the checkpoint holds that
    row, for the case that the run is killed in between.
    """

    def __init__(self) -> None:
        self._newest: dict[str, float] | None = {}

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the row that is about to be logged; all ranks take part in its means."""
        connector = trainer._logger_connector
        within_epoch = connector._first_loop_iter is not None
        metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
        if metrics and (connector.should_update_logs or not within_epoch):
            checkpoint[_KEY] = {**metrics, "epoch": trainer.current_epoch, "step": trainer.global_step - 1}

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep it until it is known at which step the run goes on."""
        self._newest = checkpoint.get(_KEY, {})

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Tell all loggers."""
        self._begin(trainer)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Tell them where there was nothing left to train."""
        if self._newest is not None:
            self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CurveLogger):
                logger.begin(trainer.global_step, self._newest or {})
        self._newest = None


class _Writer(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._boundary: list[dict[str, str]] = []  # rows of the last step before this start

    def begin(self, step: int, newest: dict[str, float]) -> None:
        rows: list[dict[str, Any]] = [row for row in self._read() if int(row["step"]) < step]
        if newest and not any(_filled(row) >= set(newest) and int(row["step"]) == newest["step"] for row in rows):
            rows.append(newest)
        self.metrics_keys = sorted({key for row in rows for key in _filled(row)})
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
        with replacing(Path(self.metrics_file_path), newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._read())

    def _check_log_dir_exists(self) -> None:
        """What is there stays until it is known where the run begins."""


def _filled(row: dict[str, Any]) -> set[str]:
    return {key for key, value in row.items() if value != ""}
