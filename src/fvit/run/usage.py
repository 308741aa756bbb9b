"""What a run takes of its machine: memory, and the GPU's time."""

import logging
import resource
import sys
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from fvit.run.logged import ends_logged_step

log = logging.getLogger(__name__)


class Usage(Callback):
    """Logs ``memory/peak_gib`` of the largest process and, on a CUDA device, ``gpu/utilization`` in percent.

    The utilization is what the driver tells of its last interval (a second or less), of rank 0's device.
    """

    def __init__(self) -> None:
        self._has_utilization = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Find out whether the driver tells it."""
        self._has_utilization = module.device.type == "cuda" and _try_utilization(module.device)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log now and then."""
        if ends_logged_step(trainer, batch_idx):
            module.log("memory/peak_gib", peak_gib(module.device), sync_dist=True, reduce_fx="max")
            if self._has_utilization:
                module.log("gpu/utilization", float(torch.cuda.utilization(module.device)))

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Note the peak for the run's results."""
        module.log("memory/peak_gib", peak_gib(module.device), logger=False, sync_dist=True, reduce_fx="max")


def peak_gib(device: torch.device) -> float:
    """Peak memory in GiB: allocated on a CUDA device, else this process's largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _try_utilization(device: torch.device) -> bool:
    try:
        torch.cuda.utilization(device)
    except (ImportError, RuntimeError) as error:
        log.warning("the utilization of the GPU is not logged: %s", error)
        return False
    return True
