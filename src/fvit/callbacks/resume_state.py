"""Where Lightning and the DataModule must agree on how far an epoch has come."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

_KEY = "validation_due"


class ResumePoint(Callback):
    """Tells Lightning how many batches of the epoch are behind a run that goes on, and what comes next.

    Lightning restores a count of batches. On other hardware, with the same images a step, a batch is another share of
    a step; and the batches of a step that was not finished are taken again, because its gradients are gone.

    A validation that was due, or cut off, is done from its beginning. Lightning would take one that had not begun for
    done, and one that had would be short of the batches that it had seen.

    An epoch has ended with its last batch. Lightning would take one that was left within it (by `max_steps`,
    `max_time`, a callback) for ended and, where `max_steps` is set, one that had ended for one to be ended again, and
    leave out the epoch after it.
    """

    def __init__(self) -> None:
        self._validated = -1  # batches trained when a validation last ended
        self._validates_first = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Have `max_steps` say when a run ends, and no more."""
        trainer.fit_loop._iteration_based_training = _not_even_then

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Note that nothing is due after this batch."""
        self._validated = trainer.fit_loop.total_batch_idx

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note whether a validation comes next, and whether the epoch has ended."""
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
        """Have the loops' progress be that of a validation whose first batch was begun, if one comes next."""
        self._validates_first = checkpoint.get(_KEY, False)
        if not self._validates_first:
            return
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
        """Set the count."""
        current = trainer.fit_loop.epoch_loop.batch_progress.current
        if not current.processed:
            return
        batches = trainer.datamodule.resumed_batches
        if not batches:  # the checkpoint was written after an epoch's last batch
            batches = trainer.fit_loop.max_batches
            if trainer.fit_loop.restarted_mid_epoch and not self._validates_first:
                trainer.fit_loop.reset_restart_stage()  # or Lightning would not count the epoch that begins now
        ahead = batches - current.processed
        # Shifted alike: by how they differ, Lightning knows at which moment the checkpoint was written.
        current.ready += ahead
        current.started += ahead
        current.processed += ahead
        current.completed += ahead


def _not_even_then() -> bool:
    return False


def is_followed_by_validation(trainer: Trainer) -> bool:
    """Whether a validation belongs after the newest training batch; Lightning has no public word for it."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
