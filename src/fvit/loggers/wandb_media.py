"""Logs images to W&B during validation: predictions, a confusion matrix and attention maps."""

import logging
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from fvit.loggers.wandb import RunLogger
from fvit.models.maps import attention_maps
from fvit.models.overlay import sheet
from fvit.training import CollectPredictions

log = logging.getLogger(__name__)

_SAMPLES, _MISTAKES = 32, 16  # rows of the table
_MAPPED_IMAGES, _MAPPED_BLOCKS = 4, 4
_MAX_CLASSES = 50  # of a readable confusion matrix
_COLUMNS = ["kind", "image", "file", "label", "prediction", "confidence"]


class WandbMedia(Callback):
    """Logs the same images after some validations, as often per run as `RunLogger.media` says; nothing without W&B.

    ``val/predictions`` is a table of images spread evenly over the validation set, and of the mistakes with the highest
    confidence; ``val/confusion`` a confusion matrix, for up to 50 classes; ``attention/NAME`` are attention maps, drawn
    with the weights that are validated: this callback must act before one that swaps averaged weights out again.
    """

    def __init__(self) -> None:
        self.collector = CollectPredictions()
        self.times = self._logged = 0
        self._due = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.times = max((logger.media for logger in trainer.loggers if isinstance(logger, RunLogger)), default=0)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        steps = trainer.estimated_stepping_batches if trainer.state.fn == TrainerFn.FITTING else float("inf")
        wanted = int(self.times * trainer.global_step / steps)  # evenly, and after the last validation
        self._due, self._logged = wanted > self._logged, max(wanted, self._logged)
        if self._due:
            self.collector.on_validation_start(trainer, module)

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *batch: Any) -> None:
        if self._due:
            self.collector.on_validation_batch_end(trainer, module, *batch)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._due:
            return
        self.collector.on_validation_end(trainer, module)
        predictions = self.collector.predictions
        # On all ranks, because a sharded model runs on all of them.
        maps = _draw_maps(trainer, module, predictions)
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.log_media(
                    lambda: {**_tables(predictions, trainer.datamodule), **_attention(maps)},
                    trainer.global_step - 1,  # the step at which Lightning logs the validation metrics
                )

    def state_dict(self) -> dict[str, Any]:
        return {"logged": self._logged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._logged = state_dict["logged"]


def _draw_maps(trainer: Trainer, module: LightningModule, predictions: Any) -> dict[str, list[tuple[Any, str]]]:
    """(image, caption) of a few validation images, for each kind of map; empty for a model without attention."""
    data = trainer.datamodule
    batch = data.val_images(_spread(predictions.indices, _MAPPED_IMAGES).tolist())
    places = {index: place for place, index in enumerate(predictions.indices.tolist())}
    images, labels = data.batch_transform(batch._replace(images=batch.images.to(module.device)), False, module.dtype)
    try:
        # Hooks see no attention in a compiled model.
        with torch.compiler.set_stance("force_eager"), trainer.precision_plugin.forward_context():
            maps = attention_maps(module.model, images)
    except ValueError as error:
        if trainer.is_global_zero:
            log.info("no attention maps for W&B: %s", error)
        return {}
    shown = set(_spread(torch.tensor(sorted({one.block for one in maps})), _MAPPED_BLOCKS).tolist())
    drawn: dict[str, list[tuple[Any, str]]] = {}
    for name in dict.fromkeys(one.name for one in maps):
        blocks = [one for one in maps if one.name == name and one.block in shown]
        for row, label in enumerate(labels.tolist()):
            place = places[int(batch.positions[row])]
            predicted = _class_name(data, int(predictions.classes[place]))
            lines = [
                f"{name}, class {data.classes[label]}",
                f"predicted: {predicted}, {100 * predictions.confidence[place]:.1f} %",
            ]
            image = sheet(batch.images[row], [(one.block, one.weights[row]) for one in blocks], *lines)
            drawn.setdefault(name, []).append((image, data.classes[label]))
    return drawn


def _tables(predictions: Any, data: Any) -> dict[str, Any]:
    import wandb

    labels = torch.as_tensor(data.source.val.labels)[predictions.indices]
    samples = _spread(torch.arange(len(labels)), _SAMPLES).tolist()
    by_confidence = torch.where(predictions.right, -1.0, predictions.confidence).argsort(descending=True)
    mistakes = [row for row in by_confidence[:_MISTAKES].tolist() if not predictions.right[row]]
    batch = data.val_images([int(predictions.indices[row]) for row in samples + mistakes])
    images = dict(zip(batch.positions.tolist(), batch.images, strict=False))
    table = wandb.Table(columns=_COLUMNS)
    for number, row in enumerate(samples + mistakes):
        if (index := int(predictions.indices[row])) in images:
            kind = "right" if predictions.right[row] else "wrong"
            table.add_data(
                kind if number < len(samples) else "surest mistake",
                wandb.Image(images[index].numpy(), file_type="jpg"),
                data.source.val.locate(index),
                data.classes[labels[row]],
                _class_name(data, int(predictions.classes[row])),
                float(predictions.confidence[row]),
            )
    media = {"val/predictions": table}
    if len(data.classes) <= _MAX_CLASSES:
        outputs = max(len(data.classes), int(predictions.classes.max()) + 1)
        media["val/confusion"] = wandb.plot.confusion_matrix(
            y_true=labels.tolist(),
            preds=predictions.classes.tolist(),
            class_names=[_class_name(data, index) for index in range(outputs)],
            title="Confusion matrix of the validation set",
        )
    return media


def _class_name(data: Any, index: int) -> str:
    """A head may have more outputs than there are classes."""
    return data.classes[index] if index < len(data.classes) else f"output {index}"


def _attention(maps: dict[str, list[tuple[Any, str]]]) -> dict[str, Any]:
    import wandb

    return {
        f"attention/{name}": [wandb.Image(image, caption=caption, file_type="jpg") for image, caption in drawn]
        for name, drawn in maps.items()
    }


def _spread(values: Tensor, count: int) -> Tensor:
    """At most `count` of the values, evenly spaced, including the first and the last."""
    if len(values) <= count:
        return values
    return values[torch.linspace(0, len(values) - 1, count).round().long()]
