"""Stopping a run whose loss is no number any more."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from fvit.run.errors import RunError


class NonFiniteGuard(Callback):
    """Ends the run when a training loss is NaN or infinite, before such weights can be saved.

    The losses are gathered on the device and looked at every few steps and before each validation, so that a GPU is
    not made to wait at every step.

    Args:
        every_n_steps: batches between two looks.

    Raises:
        RunError: naming the step and the checkpoint that remains.
    """

    def __init__(self, every_n_steps: int = 20) -> None:
        self.every_n_steps = every_n_steps
        self._losses: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        """Gather a loss."""
        self._losses.append(outputs["loss"].detach())
        if len(self._losses) >= self.every_n_steps:
            self._look(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Look before a checkpoint may be written."""
        self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Look before a checkpoint may be written."""
        self._look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look before a checkpoint is written."""
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        losses, self._losses = self._losses, []
        if not losses or bool((finite := torch.stack(losses).isfinite()).all()):
            return
        batch = trainer.fit_loop.total_batch_idx + 1 - len(losses) + int(finite.logical_not().nonzero()[0])
        saved = [callback.best_model_path for callback in trainer.checkpoint_callbacks if callback.monitor is None]
        raise RunError(
            f"the training loss is not finite since batch {batch} (epoch {trainer.current_epoch}). "
            f"{f'The last good checkpoint is {saved[0]}. ' if any(saved) else ''}"
            "Try a smaller optimizer.lr, a longer scheduler.warmup_epochs, trainer.gradient_clip_val=1, "
            "or trainer.precision=32-true"
        )
