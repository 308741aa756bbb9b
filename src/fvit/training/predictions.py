"""The predictions of a classifier for each validation image."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class Predictions(NamedTuple):
    """Predictions for N images.

    Attributes:
        indices: of the images in their dataset, ascending: int64 [N].
        confidence: the largest softmax probability: float32 [N].
        right: whether the predicted class is the label: bool [N].
        classes: the predicted class: int64 [N].
    """

    indices: Tensor
    confidence: Tensor
    right: Tensor
    classes: Tensor

    def check_same_images(self, other: "Predictions") -> None:
        """Compare the images with those of another model's predictions.

        Raises:
            ValueError: they differ: an image was skipped, or a limit on batches leaves out others.
        """
        if not self.indices.equal(other.indices):
            alone = [len(set(a.indices.tolist()) - set(b.indices.tolist())) for a, b in ((self, other), (other, self))]
            raise ValueError(
                f"the two models saw different images: {alone[0]} only the first, {alone[1]} only the second; set "
                "data.eval_batch_size if the number of batches is limited, and repair images that could not be read"
            )


class CollectPredictions(Callback):
    """Keeps the predictions of the newest validation; those of all ranks on every rank.

    Attributes:
        predictions: of the newest validation.
    """

    predictions: Predictions

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._batches: list[Predictions] = []

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Tensor | None, batch: Any, *args: Any
    ) -> None:
        if outputs is None:
            return
        # In float32, as a cascade in use computes it: float64 would separate images that float32 cannot.
        confidence = outputs.float().softmax(dim=1).amax(dim=1)
        classes = outputs.argmax(dim=1)
        right = classes == batch[1]
        self._batches.append(Predictions(trainer.datamodule.positions, confidence.cpu(), right.cpu(), classes.cpu()))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Concatenate the batches of all ranks in the order of the images.

        Raises:
            ValueError: no image could be read.
        """
        batches = self._batches
        if trainer.world_size > 1:
            ranks: list = [None] * trainer.world_size
            dist.all_gather_object(ranks, batches)
            batches = [batch for rank in ranks for batch in rank]
        if not batches:
            raise ValueError("none of the validation images could be read")
        whole = Predictions(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
        order = whole.indices.argsort()
        self.predictions = Predictions(*(part[order] for part in whole))
