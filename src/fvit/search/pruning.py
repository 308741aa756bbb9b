"""Ending a run that a study no longer hopes for."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from optuna.pruners import BasePruner

from fvit.config.errors import RunError
from fvit.launch.console import console
from fvit.search.storage import connected, running_trial


class Pruning(Callback):
    """Reports a metric after each validation, and ends the run on all ranks if the pruner says so.

    Steps are counted in validations, because trials may differ in the batches of an epoch. A run that has been
    trained to its end is not pruned at its last validation.

    Args:
        monitor: the metric, which should be that of the study, or the one of which the study takes the best.
        storage: the study's database.
        study_name: in that database.
        trial: its number.
        pruner: decides.

    Raises:
        RunError: no validation has logged `monitor`.
    """

    def __init__(self, monitor: str, storage: str, study_name: str, trial: int, pruner: BasePruner) -> None:
        self.monitor = monitor
        self.storage = storage
        self.study_name = study_name
        self.trial = trial
        self.pruner = pruner
        self.validations = 0
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Report, ask, and tell the other ranks."""
        if trainer.sanity_checking:
            return
        self.validations += 1
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise RunError(f"there is no metric {self.monitor} to prune by; known: {known}")
        hopeless = trainer.is_global_zero and self._report(trainer.callback_metrics[self.monitor].item())
        hopeless = trainer.strategy.broadcast(hopeless)
        if hopeless and not _is_done(trainer):
            self.pruned = True
            trainer.should_stop = True
            if trainer.is_global_zero:
                value = trainer.callback_metrics[self.monitor].item()
                console.print(
                    f"pruned at validation {self.validations}: {self.monitor} {value:.6g} promises too little"
                )

    def _report(self, value: float) -> bool:
        """Whether the pruner would stop here."""
        with connected(self.storage) as storage:
            trial = running_trial(storage, self.study_name, self.trial, self.pruner)
            if len(trial.study.directions) > 1:
                return False  # Optuna takes no reports then; a pruner that would want them was refused
            # A run that went on from a checkpoint comes by some validations again.
            if self.validations not in storage.get_trial(trial._trial_id).intermediate_values:
                trial.report(value, self.validations)
            return trial.should_prune()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"validations": self.validations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.validations = state["validations"]


def _is_done(trainer: Trainer) -> bool:
    """Whether the training would end after this validation anyway."""
    steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    last = trainer.current_epoch + 1 == trainer.max_epochs
    return steps or (last and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)
