"""Pictures for W&B: what a model says of validation images, what it takes for what, and where it looks."""

import logging
from collections.abc import Sequence
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

_SAMPLED, _MISTAKES = 32, 16  # rows of the table
_MAPPED = 4  # images whose maps are drawn
_BLOCKS = 4  # of a model, of which each gets a row
_MOST_CLASSES = 50  # of which a matrix can be read

_COLUMNS = ("kind", "image", "file", "label", "prediction", "confidence")


class WandbMedia(Callback):
    """Logs, after some validations, pictures of the same images each time.

    ``val/predictions``, a table of images spread evenly over the validation set and of the mistakes of which the model
    is surest; ``val/confusion`` where there are few classes; ``attention/NAME``, maps of a few images in a few blocks
    by the weights that are validated, where the model has some.

    A `RunLogger` says how often in a run, evenly, after its last validation for certain; without one this does nothing.
    """

    def __init__(self) -> None:
        self.times = 0
        self.collector = CollectPredictions()
        self._logged = 0
        self._due = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.times = max((logger.media for logger in trainer.loggers if isinstance(logger, RunLogger)), default=0)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Find out whether it is time."""
        total = trainer.estimated_stepping_batches if trainer.state.fn == TrainerFn.FITTING else float("inf")
        part = int(self.times * trainer.global_step / total)
        self._due = part > self._logged
        if self._due:
            self._logged = part
            self.collector.on_validation_start(trainer, module)

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *batch: Any) -> None:
        """Keep the answers to a batch."""
        if self._due:
            self.collector.on_validation_batch_end(trainer, module, *batch)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Log all of it; the averaged weights, if there are such, are still in place."""
        if not self._due:
            return
        self.collector.on_validation_end(trainer, module)
        # Every rank has a part in a model that is shared out.
        maps = self._draw_maps(trainer, module)
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.log_media(
                    lambda: {**_tables(self.collector.predictions, trainer.datamodule), **_images(maps)},
                    trainer.global_step - 1,  # as Lightning counts where it logs the accuracies
                )

    def state_dict(self) -> dict[str, Any]:
        """How often it was done."""
        return {"logged": self._logged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._logged = state_dict["logged"]

    def _draw_maps(self, trainer: Trainer, module: LightningModule) -> dict[str, list[tuple[Any, str]]]:
        """Pictures with their captions, by the name of what they show; none of a model that has no attention."""
        data = trainer.datamodule
        indices = self.collector.predictions.indices
        batch = data.val_images(_spread(indices, _MAPPED).tolist())
        images, labels = data.batch_transform(
            batch._replace(images=batch.images.to(module.device)), False, module.dtype
        )
        drawn: dict[str, list[tuple[Any, str]]] = {}
        try:
            # A compiled model would not let its attention be watched.
            with torch.compiler.set_stance("force_eager"), trainer.precision_plugin.forward_context():
                maps = attention_maps(module.model, images)
        except ValueError as error:  # such as that there is no attention in it
            if trainer.is_global_zero:
                log.info("no attention maps for W&B: %s", error)
            return drawn
        shown = set(_spread(torch.tensor(sorted({one.block for one in maps})), _BLOCKS).tolist())
        for name in dict.fromkeys(one.name for one in maps):
            for row, label in enumerate(labels.tolist()):
                blocks = [(one.block, one.weights[row]) for one in maps if one.name == name and one.block in shown]
                picture = sheet(batch.images[row], blocks, name)
                drawn.setdefault(name, []).append((picture, data.classes[label]))
        return drawn


def _tables(answers: Any, data: Any) -> dict[str, Any]:
    import wandb

    labels = torch.as_tensor(data.source.val.labels)[answers.indices]
    rows = [("sample", row) for row in _spread(torch.arange(len(labels)), _SAMPLED).tolist()]
    surest = torch.where(answers.right, -1.0, answers.confidence).argsort(descending=True)
    rows += [("surest mistake", row) for row in surest[:_MISTAKES].tolist() if not answers.right[row]]
    batch = data.val_images([int(answers.indices[row]) for _, row in rows])
    pixels = dict(zip(batch.positions.tolist(), batch.images, strict=False))
    table = wandb.Table(columns=list(_COLUMNS))
    for kind, row in rows:
        index = int(answers.indices[row])
        if index in pixels:
            right = "right" if answers.right[row] else "wrong"
            table.add_data(
                kind if kind != "sample" else right,
                wandb.Image(pixels[index].numpy(), file_type="jpg"),
                data.source.val.locate(index),
                data.classes[labels[row]],
                _class(data.classes, int(answers.classes[row])),
                float(answers.confidence[row]),
            )
    found = {"val/predictions": table}
    if len(data.classes) <= _MOST_CLASSES:
        outputs = max(len(data.classes), int(answers.classes.max()) + 1)  # a head may have more of them than classes
        found["val/confusion"] = wandb.plot.confusion_matrix(
            y_true=labels.tolist(),
            preds=answers.classes.tolist(),
            class_names=[_class(data.classes, index) for index in range(outputs)],
            title="Validation: what is taken for what",
        )
    return found


def _images(maps: dict[str, list[tuple[Any, str]]]) -> dict[str, Any]:
    import wandb

    return {
        f"attention/{name}": [wandb.Image(picture, caption=caption, file_type="jpg") for picture, caption in pictures]
        for name, pictures in maps.items()
    }


def _class(classes: Sequence[str], index: int) -> str:
    return classes[index] if index < len(classes) else f"output {index}"


def _spread(values: Tensor, count: int) -> Tensor:
    """At most `count` of them, evenly, the first and the last among them."""
    if len(values) <= count:
        return values
    return values[torch.linspace(0, len(values) - 1, count).round().long()]
