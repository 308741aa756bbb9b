"""TensorBoard's event files."""

from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Lightning's, which opens no file while `waiting` for the run to begin."""

    waiting = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        return DummyExperiment() if self.waiting else super().experiment
