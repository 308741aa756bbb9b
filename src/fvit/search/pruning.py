"""Pruning: ends a run that is unlikely to be the best of its study."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from optuna.pruners import BasePruner

from fvit.config.errors import RunError
from fvit.launch.console import console
from fvit.search.study import connected, running_trial


class Pruning(Callback):
    """Reports a metric to Optuna after each validation, and ends the run on all ranks if the pruner says so.

    The steps of the reports are validations, because trials may differ in batches per epoch. The last validation of a
    run prunes nothing.

    Args:
        monitor: the metric: the objective, or the one whose best value is the objective.
        storage: URL of the study's database.
        study_name: the study.
        trial: the trial's number.
        pruner: decides.

    Raises:
        RunError: the validation did not log `monitor`.
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
        if trainer.sanity_checking:
            return
        self.validations += 1
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise RunError(f"callbacks.pruning.monitor={self.monitor} is not a metric; known: {known}")
        value = trainer.callback_metrics[self.monitor].item()
        prune = trainer.strategy.broadcast(trainer.is_global_zero and self._report(value))
        if prune and not _is_last(trainer):
            self.pruned = True
            trainer.should_stop = True
            if trainer.is_global_zero:
                console.print(f"pruned at validation {self.validations}, with {self.monitor} {value:.6g}")

    def _report(self, value: float) -> bool:
        """Report to Optuna; returns whether the pruner would end the run."""
        with connected(self.storage) as storage:
            trial = running_trial(storage, self.study_name, self.trial, self.pruner)
            if len(trial.study.directions) > 1:
                return False  # Optuna takes no reports then, and the sweeper no pruner
            # A resumed run may repeat validations.
            if self.validations not in storage.get_trial(trial._trial_id).intermediate_values:
                trial.report(value, self.validations)
            return trial.should_prune()

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.validations = state["validations"]


def _is_last(trainer: Trainer) -> bool:
    """Whether training ends after this validation anyway."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return True
    last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
    return last_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
