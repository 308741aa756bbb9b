"""How long a run waits for its images, and what can be done about it."""

import logging
import os
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from fvit.callbacks.logged import ends_logged_step

log = logging.getLogger(__name__)


class DataWait(Callback):
    """Logs ``throughput/data_wait``, the share of a step that passes before its batch is on the device.

    It is the share of the rank that waits longest, since the others wait for that one. The loggers get the mean since
    they got it last, the run's results the mean over the run. Above `limit` one warning names the loader's settings.

    Args:
        limit: share from which on it is warned.
        warmup: batches left out.
        least_steps, least_seconds: of the run that must have been measured before a warning: in a run of a minute
            it is worth nothing.
    """

    def __init__(self, limit: float = 0.1, warmup: int = 2, least_steps: int = 20, least_seconds: float = 60.0) -> None:
        self.limit, self.warmup = limit, warmup
        self.least_steps, self.least_seconds = least_steps, least_seconds
        self.waited, self.seconds, self.steps = 0.0, 0.0, 0
        self.recent = 0.0
        self._told = (0.0, 0.0)
        self._last: float | None = None
        self._began = 0.0
        self._warned = False

    @property
    def share(self) -> float:
        """Mean over the run so far, of this rank; 0 before anything was measured."""
        return self.waited / self.seconds if self.seconds else 0.0

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self._last = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is here."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step; log now and then, and warn once."""
        now = time.perf_counter()
        if self.warmup > 0:
            self.warmup -= 1
        elif self._last is not None:
            self.steps += 1
            self.waited += self._began - self._last
            self.seconds += now - self._last
        self._last = now
        if ends_logged_step(trainer, batch_idx):
            self._log(trainer, module)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Leave out the time since the last training batch."""
        self._last = time.perf_counter()

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out the step before which a checkpoint is written: that is no waiting for images."""
        self._last = None

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Note the run's mean for its results."""
        if self.seconds:
            module.log("throughput/data_wait", self.share, logger=False, sync_dist=True, reduce_fx="max")

    def _log(self, trainer: Trainer, module: LightningModule) -> None:
        (waited, seconds), self._told = self._told, (self.waited, self.seconds)
        # Ranks count the same steps, so that all of them come to this reduction or none.
        if self.seconds == seconds:
            return
        shares = torch.tensor([(self.waited - waited) / (self.seconds - seconds), self.share], device=module.device)
        self.recent, whole = trainer.strategy.reduce(shares, reduce_op="max").tolist()
        module.log("throughput/data_wait", self.recent)
        enough = self.steps >= self.least_steps and self.seconds >= self.least_seconds
        if whole > self.limit and enough and not self._warned:
            self._warned = True
            if trainer.is_global_zero:
                log.warning("%s", _advice(whole, trainer.datamodule.hparams))


def _advice(share: float, data: Any) -> str:
    loaders = f"data.num_workers={data.num_workers}"
    if data.num_workers == 0:
        loaders += ": images are read between the steps; with 1 or more, beside them"
    else:
        loaders += f" for each device; this machine has {os.cpu_count()} cores"
    return (
        f"{100 * share:.0f} % of the time passes in waiting for images ({loaders}). Try another data.num_workers, "
        "data.decoder=turbo, data.pin_memory=true on a GPU, or images resized beforehand (fvit-prepare out=DIR "
        "resize=256); fvit-prepare bench=DIR tells where a loader's time goes"
    )
