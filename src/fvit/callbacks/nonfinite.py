"""Stopping a run whose loss or weights are no numbers any more."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from fvit.config.errors import RunError


class NonFiniteGuard(Callback):
    """Ends the run when a training loss is NaN or infinite, and before weights that are so can be saved.

    The losses are gathered on the device and looked at every few steps and before each validation, so that a GPU is
    not made to wait at every step. They do not tell of the newest step, whose gradient may have spoilt the weights:
    these are looked at before a validation and before a checkpoint. What one rank finds ends all, with the same words.

    Args:
        every_n_steps: batches between two looks.

    Raises:
        RunError: naming the batch or step and the checkpoint that remains.
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
        """Look before a checkpoint may be written, and before a validation is wasted."""
        self._look(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            _look_at_weights(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Look before a checkpoint may be written."""
        self._look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look before a checkpoint is written."""
        self._look(trainer)
        _look_at_weights(trainer, module)

    def _look(self, trainer: Trainer) -> None:
        losses, self._losses = self._losses, []
        if not losses:
            return
        finite = torch.stack(losses).isfinite()
        numbers = torch.arange(len(losses), device=finite.device)
        # Ranks have taken as many batches each, so that all of them come to this reduction.
        first = int(trainer.strategy.reduce(torch.where(finite, len(losses), numbers).min(), reduce_op="min"))
        if first < len(losses):
            batch = trainer.fit_loop.total_batch_idx + 1 - len(losses) + first
            raise RunError(
                f"the training loss is not finite since batch {batch} (epoch {trainer.current_epoch}). "
                f"{_advice(trainer)}"
            )


def _look_at_weights(trainer: Trainer, module: LightningModule) -> None:
    # Of sharded weights each rank has its own part. An average that is kept of them is spoilt when they are.
    parts = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in module.parameters()]
    finite = torch.stack([part.detach().isfinite().all() for part in parts]).all()
    if not trainer.strategy.reduce_boolean_decision(bool(finite)):
        raise RunError(
            f"the weights are not finite after step {trainer.global_step} (epoch {trainer.current_epoch}), of a "
            f"gradient that was not, and are not saved. {_advice(trainer)}"
        )


def _advice(trainer: Trainer) -> str:
    paths = [callback.best_model_path for callback in trainer.checkpoint_callbacks if callback.monitor is None]
    saved = next((path for path in [*paths, trainer.ckpt_path] if path), None)
    return (
        f"{f'The last good checkpoint is {saved}. ' if saved else ''}"
        "Try a smaller optimizer.lr, a longer scheduler.warmup_epochs, trainer.gradient_clip_val=1, "
        "or trainer.precision=32-true"
    )
