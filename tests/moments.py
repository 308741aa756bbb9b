"""Callbacks for tests that act on a process at a certain moment of its training."""

import os
import signal
import time
from pathlib import Path

from lightning import Callback


class Mark(Callback):
    """Writes a file named STAGE-RANK after a few batches; each batch takes as long as asked for.

    Args:
        folder: of the files.
        seconds: per batch.
    """

    def __init__(self, folder, seconds=0.05):
        self.folder, self.seconds = Path(folder), seconds

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self._mark("training", trainer, batch_idx)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self._mark("validation", trainer, batch_idx)

    def _mark(self, stage, trainer, batch):
        time.sleep(self.seconds)
        if batch == 3:
            (self.folder / f"{stage}-{trainer.global_rank}").touch()


class Tell(Callback):
    """Sends this process a signal after a batch of training or of validation."""

    def __init__(self, stage, epoch, batch, signum=signal.SIGTERM):
        self.moment, self.signum = (stage, epoch, batch), signum

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self._tell("training", trainer, batch_idx)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self._tell("validation", trainer, batch_idx)

    def _tell(self, stage, trainer, batch):
        if (stage, trainer.current_epoch, batch) == self.moment:
            os.kill(os.getpid(), self.signum)


class PoisonLoss(Callback):
    """On one rank, makes an epoch's last loss NaN for the callbacks that follow; the weights stay finite."""

    def __init__(self, rank):
        self.rank = rank

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_rank == self.rank and trainer.is_last_batch:
            outputs["loss"].fill_(float("nan"))
