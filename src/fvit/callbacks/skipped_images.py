"""What the epoch's log says of images that could not be used."""

import logging

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

# Lines of one epoch's log; the count is always whole.
_SHOWN = 20


class SkippedImages(Callback):
    """Tells once an epoch how many images of all ranks were skipped, which, and why; logs ``data/skipped``."""

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Tell of the epoch, its validation included."""
        skipped = self._tell(trainer, f"epoch {trainer.current_epoch + 1}")
        if skipped:
            module.log("data/skipped", float(skipped), rank_zero_only=True)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Tell of a validation that belongs to no training."""
        if not trainer.fit_loop.epoch_progress.current.ready:
            self._tell(trainer, "validation")

    def _tell(self, trainer: Trainer, when: str) -> int:
        faults = trainer.datamodule.faults.take()
        if trainer.world_size > 1:
            ranks: list = [None] * trainer.world_size
            dist.all_gather_object(ranks, faults)
            faults = [fault for rank in ranks for fault in rank]
        if faults and trainer.is_global_zero:
            lines = [f"  {fault}" for fault in faults[:_SHOWN]]
            lines += [f"  and {len(faults) - _SHOWN} more"] * (len(faults) > _SHOWN)
            log.warning("%s: %d images could not be used and were skipped\n%s", when, len(faults), "\n".join(lines))
        return len(faults)
