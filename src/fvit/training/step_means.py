"""What an optimizer step's losses are on average: over its micro batches, and over all ranks."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor


class StepMeans:
    """Gathers losses of micro batches; at the end of a step their means are the same on each rank.

    All micro batches hold the same number of images, so that a mean of means is the mean over the global batch, which
    one process would have computed. It costs one collective of a few numbers a step, beside that of the gradients.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Note the losses of one micro batch, scalars."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach())

    def take(self, world_size: int) -> dict[str, Tensor]:
        """The means of the step that ends; the next one begins. All ranks must call it."""
        values, self._values = self._values, {}
        means = torch.stack([torch.stack(losses).mean() for losses in values.values()])
        if world_size > 1:
            dist.all_reduce(means)
            means /= world_size
        return dict(zip(values, means, strict=True))
