"""What a classifier answers to each image of a validation."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class Answers(NamedTuple):
    """A classifier's answers to N images.

    Attributes:
        indices: of the images in their set, ascending: int64 [N].
        confidence: the largest softmax probability: float32 [N].
        right: whether the class that has it is the label: bool [N].
        classes: the class that has it: int64 [N].
    """

    indices: Tensor
    confidence: Tensor
    right: Tensor
    classes: Tensor

    def check_same_images(self, other: "Answers") -> None:
        """Hold them against another model's.

        Raises:
            ValueError: they are of other images: one was skipped, or a limit on batches leaves other ones.
        """
        if not self.indices.equal(other.indices):
            alone = [len(set(a.indices.tolist()) - set(b.indices.tolist())) for a, b in ((self, other), (other, self))]
            raise ValueError(
                f"the two models were not shown the same images: {alone[0]} only to the one, {alone[1]} only to the "
                "other; set data.eval_batch_size if their batches are limited, and repair what could not be read"
            )


class CollectAnswers(Callback):
    """Keeps the answers of the newest validation, those of all ranks on every rank.

    Attributes:
        answers: they are.
    """

    answers: Answers

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin anew."""
        self._batches: list[Answers] = []

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Tensor | None, batch: Any, *args: Any
    ) -> None:
        """Keep a batch's answers on the CPU."""
        if outputs is None:
            return
        # As a cascade in use would compute it: where it has float64, that would part images which no float32 can.
        confidence = outputs.float().softmax(dim=1).amax(dim=1)
        classes = outputs.argmax(dim=1)
        right = classes == batch[1]
        self._batches.append(Answers(trainer.datamodule.positions, confidence.cpu(), right.cpu(), classes.cpu()))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the answers together, in the order of the images.

        Raises:
            ValueError: none could be read.
        """
        batches = self._batches
        if trainer.world_size > 1:
            ranks: list = [None] * trainer.world_size
            dist.all_gather_object(ranks, batches)
            batches = [batch for rank in ranks for batch in rank]
        if not batches:
            raise ValueError("none of the validation images could be read")
        whole = Answers(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
        order = whole.indices.argsort()
        self.answers = Answers(*(part[order] for part in whole))
