"""The CSV file of a run's metrics, continued when the run resumes."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import loggers
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment

from fvit.config.atomic import replacing

_KEY = "curve_row"


class CSVLogger(loggers.CSVLogger):
    """Lightning's, which keeps the rows of a resumed run instead of starting an empty file.

    A step that is trained again because it came after the checkpoint has one row, the new one. Nothing is written while
    the logger is `waiting` for the run to begin.
    """

    waiting = False

    @property
    @rank_zero_experiment
    def experiment(self) -> "_Writer | DummyExperiment":
        if self.waiting:
            return DummyExperiment()
        if self._experiment is None:
            self._experiment = _Writer(log_dir=self.log_dir)
        return self._experiment

    @rank_zero_only
    def resume(self, step: int, newest: dict[str, float]) -> None:
        """Drop the rows of `step` (from 0) and later.

        Args:
            step: the first step of this start.
            newest: a row that may not have been written before the run ended; empty if there is none.
        """
        self.experiment.resume(step, newest)


class CSVResume(Callback):
    """Tells a `CSVLogger` at which step a run starts or resumes.

    Lightning logs the metrics of a step or epoch after its checkpoint is written. So the checkpoint holds that row,
    in case the run is killed in between.
    """

    def __init__(self) -> None:
        self._step = 0
        self._newest: dict[str, float] | None = {}

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        connector = trainer._logger_connector
        within_epoch = connector._first_loop_iter is not None
        metrics = {name: float(value) for name, value in connector.metrics["log"].items()}  # a collective operation
        if metrics and (connector.should_update_logs or not within_epoch):
            checkpoint[_KEY] = {**metrics, "epoch": trainer.current_epoch, "step": trainer.global_step - 1}

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._newest = checkpoint.get(_KEY, {})

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._step = trainer.global_step

    # The run has begun by then, and nothing was logged yet.
    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self._resume(trainer)

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self._resume(trainer)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._newest is not None:  # nothing was left to train
            self._step = trainer.global_step
            self._resume(trainer)

    def _resume(self, trainer: Trainer) -> None:
        if self._newest is None:
            return
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.resume(self._step, self._newest)
        self._newest = None


class _Writer(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._boundary: list[dict[str, str]] = []  # rows of the last step before this start

    def resume(self, step: int, newest: dict[str, float]) -> None:
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
        # A repeated validation belongs to the step before the first new one.
        again = [row for row in self._boundary if _filled(row) == set(self.metrics[-1]) and int(row["step"]) == step]
        if again:
            self._boundary = [row for row in self._boundary if row not in again]
            self._write([row for row in self._read() if row not in again])

    def _read(self) -> list[dict[str, str]]:
        if not os.path.isfile(self.metrics_file_path):
            return []
        with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
            text = file.read()
        # The last row may be incomplete, if the process was killed while writing it.
        return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with replacing(Path(self.metrics_file_path), newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._read())

    def _check_log_dir_exists(self) -> None:
        """Lightning would empty the directory here; `resume` decides what stays."""


def _filled(row: dict[str, Any]) -> set[str]:
    return {key for key, value in row.items() if value != ""}
