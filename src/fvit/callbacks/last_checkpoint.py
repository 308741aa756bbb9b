"""The checkpoint from which a run goes on."""

import os
import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from fvit.callbacks.resume_state import is_followed_by_validation


class LastCheckpoint(Checkpoint):
    """Writes last.ckpt at the end of every epoch, after a validation within one and, if asked, more often.

    Lightning's ModelCheckpoint saves at epochs, at steps or at times, and not at two of them; nor a second time at a
    step, as when an epoch's last step is followed by a validation.

    Args:
        dirpath: folder of the checkpoints.
        every_n_train_steps: optimizer steps between two checkpoints within an epoch; None: none.
        every_n_minutes: minutes between two checkpoints within an epoch; None: none.

    Raises:
        ValueError: a number of steps or minutes is not positive.
    """

    monitor = None
    """As a ModelCheckpoint's, what a checkpoint depends on."""

    def __init__(
        self, dirpath: str | Path, every_n_train_steps: int | None = None, every_n_minutes: float | None = None
    ) -> None:
        for name, value in (("every_n_train_steps", every_n_train_steps), ("every_n_minutes", every_n_minutes)):
            if value is not None and value <= 0:
                raise ValueError(
                    f"callbacks.last.{name}={value} is not positive; null saves at the ends of epochs alone"
                )
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self.every_n_minutes = every_n_minutes
        self.best_model_path = ""

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have the best score stay with the run's folder where that was moved: ModelCheckpoint would drop it."""
        here = os.path.realpath(self.path.parent)
        if os.path.dirname(os.path.realpath(trainer.ckpt_path)) != here:
            return
        for state in checkpoint["callbacks"].values():
            if "best_model_path" in state:
                _move(state, state["dirpath"], here)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self._step, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Save after a step, if it is time."""
        if trainer.global_step == self._step:  # gradients are being accumulated, which no checkpoint holds
            return
        self._step = trainer.global_step
        # The end of an epoch saves for itself; a validation before it may be long.
        ends = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self._is_time(trainer) and (not ends or is_followed_by_validation(trainer)):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save after a validation within an epoch."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save when all is done that belongs to the epoch."""
        self._save(trainer)

    def _is_time(self, trainer: Trainer) -> bool:
        if self.every_n_train_steps is not None and trainer.global_step % self.every_n_train_steps == 0:
            return True
        if self.every_n_minutes is None:
            return False
        # Clocks differ, and all ranks take part in a checkpoint.
        return trainer.strategy.broadcast(time.monotonic() - self._saved_at >= 60 * self.every_n_minutes)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:
            return
        trainer.save_checkpoint(self.path)
        self.best_model_path, self._saved_at = str(self.path), time.monotonic()


def _move(state: dict[str, Any], old: str, new: str) -> None:
    """Put another folder into the paths of a ModelCheckpoint's state."""
    for key, value in state.items():
        if isinstance(value, str):
            state[key] = value.replace(old, new)
    state["best_k_models"] = {path.replace(old, new): score for path, score in state["best_k_models"].items()}
