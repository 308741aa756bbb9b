"""What a run takes of its machine: memory, and the GPU's time."""

import logging
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from fvit.callbacks.logged import ends_logged_step
from fvit.cost.memory import peak, reset_peak

log = logging.getLogger(__name__)


class Usage(Callback):
    """Logs ``memory/peak_gib`` of the largest process and, on a CUDA device, ``gpu/utilization`` in percent.

    The peak is that of this run, also where others have run in this process before. The utilization is what the driver
    tells of its last interval (a second or less), of rank 0's device.
    """

    def __init__(self) -> None:
        self._has_utilization = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin to count."""
        reset_peak(module.device)
        self._has_utilization = module.device.type == "cuda"

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log now and then."""
        if ends_logged_step(trainer, batch_idx):
            module.log("memory/peak_gib", _peak_gib(module), sync_dist=True, reduce_fx="max")
            if (percent := self._utilization(module.device)) is not None:
                module.log("gpu/utilization", percent)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Note the peak for the run's results."""
        module.log("memory/peak_gib", _peak_gib(module), logger=False, sync_dist=True, reduce_fx="max")

    def _utilization(self, device: torch.device) -> float | None:
        if not self._has_utilization:
            return None
        try:
            return float(torch.cuda.utilization(device))
        except Exception as error:  # each vendor's library has an exception of its own, an Exception and no more
            log.warning("the utilization of the GPU is not logged: %s", error)
            self._has_utilization = False
            return None


def _peak_gib(module: LightningModule) -> float:
    return peak(module.device) / 2**30
