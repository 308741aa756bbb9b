"""An exponential moving average of the weights."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class EMA(EMAWeightAveraging):
    """Lightning's, which also saves correct checkpoints during validation.

    Validation swaps the weights with their average. A checkpoint that is written in between, as on a signal, would
    hold each under the other's name.
    """

    _swapped = False

    def on_validation_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_validation_epoch_start(trainer, module)
        self._swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, module)
        self._swapped = False

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, module, checkpoint)
        if self._swapped and "current_model_state" in checkpoint:
            average, current = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = average, current
