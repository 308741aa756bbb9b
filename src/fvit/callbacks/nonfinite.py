"""Ends a run whose loss or weights are NaN or infinite."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from fvit.callbacks.logged_steps import ends_logged_step
from fvit.config.errors import RunError


class NonFiniteGuard(Callback):
    """Ends the run when a training loss is not finite, and before weights that are not finite are saved.

    Losses are collected on the device and checked in steps that are logged, because a check makes a GPU wait. They miss
    the newest gradient, which may have spoilt the weights, so weights are checked before a validation and a checkpoint.
    All ranks end together, with the same message.

    Args:
        every_n_batches: the fewest batches between two checks of the losses.

    Raises:
        RunError: names the batch or step, and the checkpoint that is left.
    """

    def __init__(self, every_n_batches: int = 20) -> None:
        self.every_n_batches = every_n_batches
        self._losses: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())
        if len(self._losses) >= self.every_n_batches and ends_logged_step(trainer, batch_idx):
            self._check_losses(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._check_losses(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            _check_weights(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._check_losses(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_losses(trainer)
        _check_weights(trainer, module)

    def _check_losses(self, trainer: Trainer) -> None:
        losses, self._losses = self._losses, []
        if not losses:
            return
        finite = torch.stack(losses).isfinite()
        indices = torch.arange(len(losses), device=finite.device)
        # Ranks have trained on equally many batches, so all of them reach this reduction.
        first = int(trainer.strategy.reduce(torch.where(finite, len(losses), indices).min(), reduce_op="min"))
        if first < len(losses):
            batch = trainer.fit_loop.total_batch_idx + 1 - len(losses) + first
            raise RunError(
                f"the training loss is not finite since batch {batch} (epoch {trainer.current_epoch}). "
                f"{_advice(trainer)}"
            )


def _check_weights(trainer: Trainer, module: LightningModule) -> None:
    # FSDP: each rank checks its shard. An average of the weights is spoilt when they are.
    shards = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in module.parameters()]
    finite = torch.stack([shard.detach().isfinite().all() for shard in shards]).all()
    if not trainer.strategy.reduce_boolean_decision(bool(finite)):
        raise RunError(
            f"the weights are not finite after step {trainer.global_step} (epoch {trainer.current_epoch}) because its "
            f"gradient was not; they are not saved. {_advice(trainer)}"
        )


def _advice(trainer: Trainer) -> str:
    paths = [callback.best_model_path for callback in trainer.checkpoint_callbacks if callback.monitor is None]
    saved = next((path for path in [*paths, trainer.ckpt_path] if path), None)
    return (
        f"{f'The last good checkpoint is {saved}. ' if saved else ''}"
        "Try a smaller optimizer.lr, a longer scheduler.warmup_epochs, trainer.gradient_clip_val=1, "
        "or trainer.precision=32-true"
    )
