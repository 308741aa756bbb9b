"""Where in an epoch a run resumes: Lightning's progress counters and the DataModule's position made to agree."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

_KEY = "validation_due"


class ResumeState(Callback):
    """Sets how many batches of the epoch a resumed run has behind it, and whether a validation comes first.

    Lightning restores a number of batches. With other hardware and the same global batch size, a batch is another
    share of a step; and the batches of an unfinished step are repeated, because its gradients are lost.

    A validation that was due or interrupted is repeated from its start. Lightning would skip one that had not begun,
    and leave out the batches that an interrupted one had seen.

    An epoch ends with its last batch. Lightning would take an epoch that was left early (by `max_steps`, `max_time`
    or a callback) as complete; and with `max_steps` it would complete a finished epoch again and skip the next one.
    """

    def __init__(self) -> None:
        self._validated = -1  # batches trained when a validation last ended
        self._validates_first = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        # `max_steps` says when a run ends; it must not change how epochs are counted.
        trainer.fit_loop._iteration_based_training = lambda: False

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._validated = trainer.fit_loop.total_batch_idx

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        if 0 < progress.ready < trainer.fit_loop.max_batches:
            for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
                counts["processed"] = counts["completed"] = counts["ready"] - 1
        checkpoint[_KEY] = (
            progress.processed == progress.ready > 0
            and self._validated != trainer.fit_loop.total_batch_idx
            and is_followed_by_validation(trainer)
        )

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._validates_first = checkpoint.get(_KEY, False)
        if not self._validates_first:
            return
        # The counters of a validation that has begun its first batch.
        loops = checkpoint["loops"]["fit_loop"]
        for trained in ("total", "current"):
            batches = loops["epoch_loop.batch_progress"][trained]
            batches["completed"] = batches["processed"]
            loops["epoch_loop.val_loop.batch_progress"][trained] |= {
                "ready": 1,
                "started": 1,
                "processed": 0,
                "completed": 0,
            }

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        current = trainer.fit_loop.epoch_loop.batch_progress.current
        if not current.processed:
            return
        batches = trainer.datamodule.resumed_batches
        if not batches:  # the checkpoint was written after an epoch's last batch
            batches = trainer.fit_loop.max_batches
            if trainer.fit_loop.restarted_mid_epoch and not self._validates_first:
                trainer.fit_loop.reset_restart_stage()  # else Lightning would not count the epoch that begins now
        ahead = batches - current.processed
        # All four move together: Lightning tells from their differences when the checkpoint was written.
        current.ready += ahead
        current.started += ahead
        current.processed += ahead
        current.completed += ahead


def is_followed_by_validation(trainer: Trainer) -> bool:
    """Whether a validation follows the newest training batch, which Lightning does not say publicly."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
