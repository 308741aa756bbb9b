"""An exponential moving average of the weights."""

import logging
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from fvit.training.metrics import accuracy

log = logging.getLogger(__name__)


class EMA(WeightAveraging):
    """Validates and saves the average; the raw weights are validated as well, as ``val_raw/acc1``.

    The decay is warmed up as in timm's ModelEmaV3: update number n, counted from 0, has the decay
    min(decay, 1 - (1 + n)^(-2/3)), so that the average forgets the initial weights. Until its start it follows the raw
    weights.

    Args:
        decay: the share of the average that an update keeps after the warm-up.
        device: where the average is kept; None for that of the model.
        use_buffers: average the buffers as well, such as the statistics of batch normalisation.
        update_every_n_steps: optimizer steps between two updates.
        update_starting_at_step: optimizer steps before the start.
        update_starting_at_epoch: epochs before the start.

    Raises:
        ValueError: the decay is not in [0, 1).
    """

    def __init__(
        self,
        decay: float = 0.999,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay={decay} must be in [0, 1)")
        super().__init__(device=device, use_buffers=use_buffers, multi_avg_fn=self._average)
        self.decay = decay
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step or 0
        self.update_starting_at_epoch = update_starting_at_epoch or 0
        self._updates = 0  # since the start
        self._started = False
        self._swapped = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        super().setup(trainer, module, stage)
        if self._average_model is not None:
            self._average_model.eval()
            self._raw_acc1 = accuracy(module.num_outputs)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        steps, every = trainer.estimated_stepping_batches, self.update_every_n_steps
        per_epoch = steps / trainer.max_epochs if (trainer.max_epochs or -1) > 0 else 0
        left = steps - max(self.update_starting_at_step, self.update_starting_at_epoch * per_epoch)
        span = every / (1 - self.decay)
        if left <= 0:
            log.warning("callbacks.ema starts after the %d steps of this run: it averages nothing", steps)
        elif span > left:
            log.warning(
                "callbacks.ema.decay=%g averages over %.0f steps, more than the %.0f of this run; its warm-up ends at "
                "%.3g. Try callbacks.ema.decay=%.2g",
                *(self.decay, span, left, self._decay_at(left / every), 1 - min(0.5, 10 * every / left)),
            )

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *batch: Any) -> None:
        self._started = (
            trainer.global_step > self.update_starting_at_step
            and trainer.current_epoch >= self.update_starting_at_epoch
        )
        before = self._latest_update_step
        super().on_train_batch_end(trainer, module, *batch)
        self._updates += self._started and self._latest_update_step > before

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (not self._started or step_idx % self.update_every_n_steps == 0)

    def on_validation_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_validation_epoch_start(trainer, module)
        self._swapped = True
        if self._average_model is not None:
            self._raw_acc1.to(module.device).reset()

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Tensor | None, batch: Any, *args: Any
    ) -> None:
        if self._average_model is None or outputs is None:
            return
        images, labels = batch
        raw = self._average_model.module  # while both are swapped
        with trainer.precision_plugin.forward_context():
            # The average of 16-bit weights has 32 bits.
            self._raw_acc1.update(raw(images.to(next(raw.parameters()))).to(labels.device), labels)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, module)
        self._swapped = False
        if self._average_model is not None:
            module.log("val_raw/acc1", self._raw_acc1.compute(), sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "updates": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._updates = state_dict.get("updates", self._latest_update_step)  # version 0.1 had no warm-up

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the average; one saved within a validation, as on a signal, has both weights under the other's name."""
        super().on_save_checkpoint(trainer, module, checkpoint)
        if self._swapped and "current_model_state" in checkpoint:
            average, current = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = average, current

    def _decay_at(self, update: float) -> float:
        return min(self.decay, 1 - (1 + update) ** (-2 / 3))

    def _average(self, averages: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        if averages[0].is_floating_point() or averages[0].is_complex():
            decay = self._decay_at(self._updates) if self._started else 0.0
            torch._foreach_lerp_(averages, [weight.to(averages[0].dtype) for weight in weights], 1 - decay)
        else:  # counts, as those of batch normalisation
            torch._foreach_copy_(averages, weights)
