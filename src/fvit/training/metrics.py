"""What training and evaluation count: losses and accuracies over all ranks."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy


def accuracy(outputs: int, **options: Any) -> MulticlassAccuracy:
    """The share of images classified correctly; it does not check the labels, because that would make a GPU wait."""
    return MulticlassAccuracy(outputs, average="micro", validate_args=False, **options)


class EvalMetrics(nn.ModuleDict):
    """The loss (cross-entropy without smoothing), ``acc1`` and ``acc5`` of an evaluation.

    torchmetrics sums counts over ranks, which is exact for unequal numbers of images.
    """

    def __init__(self, outputs: int) -> None:
        top5 = accuracy(outputs, top_k=min(5, outputs))
        super().__init__({"loss": MeanMetric(), "acc1": accuracy(outputs), "acc5": top5})

    def count(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits [B, outputs] and labels [B]."""
        self["loss"].update(F.cross_entropy(logits.float(), labels), weight=len(labels))
        for name in ("acc1", "acc5"):
            self[name].update(logits, labels)

    @property
    def images(self) -> Tensor:
        """How many were counted on this rank, a scalar on its device."""
        return self["acc1"].tp + self["acc1"].fn  # a loss that is not a number is left out of its mean


class StepMeans:
    """Mean losses of an optimizer step over its micro batches and over all ranks.

    All micro batches have equally many images, so the mean of means is the mean over the global batch, which one
    process would have computed. It takes one collective of a few numbers per step, next to that of the gradients.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the losses of one micro batch, scalars."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach())

    def take(self, world_size: int) -> dict[str, Tensor]:
        """The means since the last call; a collective operation."""
        values, self._values = self._values, {}
        means = torch.stack([torch.stack(losses).mean() for losses in values.values()])
        if world_size > 1:
            dist.all_reduce(means)
            means /= world_size
        return dict(zip(values, means, strict=True))
