"""How much of the devices' time a run has taken."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from fvit.callbacks.logged import ends_logged_step

_NAME = "progress/device_hours"


class DeviceHours(Callback):
    """Logs ``progress/device_hours``: hours since training began times devices, which are GPU hours on GPUs.

    Validation and checkpoints count. A run that goes on counts on from its checkpoint.
    """

    def __init__(self) -> None:
        self._before = self._hours = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log now and then."""
        self._count(trainer)
        if ends_logged_step(trainer, batch_idx):
            module.log(_NAME, self._hours)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Log beside the accuracies."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._count(trainer)
            module.log(_NAME, self._hours, sync_dist=True)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Log beside the epoch's figures, and for the run's results."""
        self._count(trainer)
        module.log(_NAME, self._hours, sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """The hours so far."""
        return {_NAME: self._hours}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on."""
        self._before = self._hours = state_dict[_NAME]

    def _count(self, trainer: Trainer) -> None:
        self._hours = self._before + (time.perf_counter() - self._began) / 3600 * trainer.world_size
