"""The moving average of the weights, as checkpoints that may be written at any moment need it."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class EMA(EMAWeightAveraging):
    """Lightning's, except that a checkpoint written in a validation has weights and average where they belong.

    In a validation the two have changed places.
    """

    _swapped = False

    def on_validation_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Note the exchange."""
        super().on_validation_epoch_start(trainer, module)
        self._swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Note that it is undone."""
        super().on_validation_epoch_end(trainer, module)
        self._swapped = False

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put each under its name."""
        super().on_save_checkpoint(trainer, module, checkpoint)
        if self._swapped and "current_model_state" in checkpoint:
            average, current = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = average, current
