"""How fast a run is, and how much memory it takes."""

import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs ``throughput/images_per_s`` over all devices and ``memory/peak_gib`` of the largest process, once an epoch.

    Only training counts: the clock stands still in validation, and the first steps of a run, which warm up, are
    left out.

    Args:
        images_per_step: images of one batch over all devices.
        warmup: batches left out.
    """

    def __init__(self, images_per_step: int, warmup: int = 2) -> None:
        self.images_per_step = images_per_step
        self.warmup = warmup
        self.batches = 0
        self.seconds = 0.0

    @property
    def images_per_s(self) -> float:
        """Mean over the run so far; 0 before anything was measured."""
        return self.batches * self.images_per_step / self.seconds if self.seconds else 0.0

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self._last = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Count a batch, with the time that its loading took."""
        now = time.perf_counter()
        if self.warmup > 0:
            self.warmup -= 1
        else:
            self.batches += 1
            self.seconds += now - self._last
        self._last = now

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Leave out the time since the last training batch."""
        self._last = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Log both figures."""
        if self.seconds:
            module.log("throughput/images_per_s", self.images_per_s, sync_dist=True)
            module.log("memory/peak_gib", peak_gib(module.device), sync_dist=True, reduce_fx="max")


def peak_gib(device: torch.device) -> float:
    """Peak memory in GiB: allocated on a CUDA device, else this process's largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
