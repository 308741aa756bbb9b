"""Where Lightning and the DataModule must agree on how far an epoch has come."""

from lightning import Callback, LightningModule, Trainer


class ResumePoint(Callback):
    """Tells Lightning how many batches of the epoch are behind a run that goes on.

    Lightning restores a count of batches. On other hardware, with the same images a step, a batch is another share of
    a step; and the batches of a step that was not finished are taken again, because its gradients are gone.
    """

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Set the count."""
        current = trainer.fit_loop.epoch_loop.batch_progress.current
        if not current.processed:
            return
        batches = trainer.datamodule.resumed_batches
        if not batches:  # the checkpoint was written after an epoch's last batch
            batches = trainer.fit_loop.max_batches
            if trainer.fit_loop.restarted_mid_epoch:  # or Lightning would not count the epoch that begins now
                trainer.fit_loop.reset_restart_stage()
        ahead = batches - current.processed
        # Shifted alike: by how they differ, Lightning knows at which moment the checkpoint was written.
        current.ready += ahead
        current.started += ahead
        current.processed += ahead
        current.completed += ahead
