"""Scores by class, confusions and calibration of an evaluation."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from fvit.config.atomic import replacing
from fvit.training.predictions import CollectPredictions
from fvit.training.scores import Scores, real_accuracy, score


class EvalScores(Callback):
    """Scores an evaluation that is no part of training: that of fvit-eval, and of a test split.

    Logs ``balanced_acc``, ``macro_f1`` and ``ece`` of `fvit.training.scores`, and ``real_acc1`` where the dataset has
    the labels of ImageNet-ReaL; writes ``SPLIT_classes.csv`` and ``SPLIT_confusions.csv``.

    Args:
        folder: the run directory.

    Attributes:
        scores: of the newest evaluation; None before one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.scores: Scores | None = None
        self._collector = CollectPredictions()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._collector.on_validation_start(trainer, module)

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Tensor | None, batch: Any, *args: Any
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._collector.on_validation_batch_end(trainer, module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._score(trainer, module, "val")

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._collector.on_validation_start(trainer, module)

    def on_test_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Tensor | None, batch: Any, *args: Any
    ) -> None:
        self._collector.on_validation_batch_end(trainer, module, outputs, batch)

    def on_test_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._score(trainer, module, "test")

    def _score(self, trainer: Trainer, module: LightningModule, split: str) -> None:
        self._collector.on_validation_end(trainer, module)
        source, predictions = trainer.datamodule.source, self._collector.predictions
        images = source.splits.get(split, source.val)
        labels = predictions.classes.new_tensor(images.labels)[predictions.indices]
        self.scores = score(labels, predictions.classes, predictions.confidence, len(source.classes))
        metrics = dict(self.scores.metrics)
        if source.real is not None:
            metrics["real_acc1"] = real_accuracy(predictions.indices, predictions.classes, source.real)
        # The same on all ranks.
        module.log_dict({f"{split}/{name}": value for name, value in metrics.items()}, sync_dist=True)
        if trainer.is_global_zero:
            self._write(split, source.classes, self.scores)

    def _write(self, split: str, classes: Sequence[str], scores: Scores) -> None:
        def name(label: int) -> str:
            return classes[label] if label < len(classes) else f"output {label}"

        by_class = [(name(one.label), *one[1:]) for one in scores.classes]
        pairs = [(name(one.label), name(one.predicted), *one[2:]) for one in scores.confusions]
        head = ["class", "images", "accuracy", "precision", "f1"]
        _write_csv(self.folder / f"{split}_classes.csv", head, by_class)
        _write_csv(self.folder / f"{split}_confusions.csv", ["class", "predicted", "images", "share"], pairs)


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> None:
    with replacing(path, newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(head)
        for row in rows:
            table.writerow(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row)
