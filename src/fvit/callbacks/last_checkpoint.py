"""Writes last.ckpt, from which a run resumes."""

import os
import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from fvit.callbacks.resume_state import is_followed_by_validation
from fvit.launch.record import note_elapsed


class LastCheckpoint(Checkpoint):
    """Saves at the end of every epoch, after a validation within one and, on request, more often.

    Lightning's ModelCheckpoint saves by epochs, by steps or by time, but not by two of them, and not twice at a step,
    as when an epoch's last step is followed by a validation.

    Args:
        dirpath: directory of the checkpoints.
        every_n_train_steps: optimizer steps between two checkpoints within an epoch; None: none.
        every_n_minutes: minutes between two checkpoints within an epoch; None: none.

    Raises:
        ValueError: a number of steps or minutes is not positive.
    """

    monitor = None
    """As of a ModelCheckpoint: there is no metric on which saving depends."""

    def __init__(
        self, dirpath: str | Path, every_n_train_steps: int | None = None, every_n_minutes: float | None = None
    ) -> None:
        for name, value in (("every_n_train_steps", every_n_train_steps), ("every_n_minutes", every_n_minutes)):
            if value is not None and value <= 0:
                raise ValueError(
                    f"callbacks.last.{name}={value} must be positive; null saves at the end of each epoch only"
                )
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self.every_n_minutes = every_n_minutes
        self.best_model_path = ""

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the scores of ModelCheckpoint: the best if the run directory was moved, and the current one."""
        here = os.path.realpath(self.path.parent)
        if os.path.dirname(os.path.realpath(trainer.ckpt_path)) != here:
            return
        for state in checkpoint["callbacks"].values():
            if "best_model_path" in state:
                _move(state, state["dirpath"], here)
        for callback in trainer.checkpoint_callbacks:
            if "current_score" in (state := checkpoint["callbacks"].get(callback.state_key, {})):
                callback.current_score = state["current_score"]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._step, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self._step:  # accumulated gradients are not part of a checkpoint
            return
        self._step = trainer.global_step
        # The end of an epoch saves anyway, but a validation before it may take long.
        ends = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self._is_due(trainer) and (not ends or is_followed_by_validation(trainer)):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._save(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
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
        if trainer.is_global_zero:
            note_elapsed(Path(trainer.default_root_dir))


def _move(state: dict[str, Any], old: str, new: str) -> None:
    """Replace the directory in the paths of a ModelCheckpoint's state."""
    for key, value in state.items():
        if isinstance(value, str):
            state[key] = value.replace(old, new)
    state["best_k_models"] = {path.replace(old, new): score for path, score in state["best_k_models"].items()}
