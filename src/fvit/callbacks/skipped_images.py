"""Reports images that could not be read."""

import logging
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

_SHOWN = 20  # per epoch; the count is always complete


class SkippedImages(Callback):
    """Warns once per epoch which images were skipped on any rank, and why; logs their number as ``data/skipped``."""

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        skipped = self._report(trainer, f"epoch {trainer.current_epoch + 1}")  # its validation included
        if skipped:
            module.log("data/skipped", float(skipped), rank_zero_only=True)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.fit_loop.epoch_progress.current.ready:
            self._report(trainer, "validation")

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._report(trainer, "test")

    def _report(self, trainer: Trainer, when: str) -> int:
        faults = trainer.datamodule.faults.take()
        if trainer.world_size > 1:
            ranks: list = [None] * trainer.world_size
            dist.all_gather_object(ranks, faults)
            faults = list({fault.where: fault for rank in ranks for fault in rank}.values())
        if trainer.is_global_zero:
            warn_of_skipped(faults, when)
        return len(faults)


def warn_of_skipped(faults: Sequence[Any], when: str) -> None:
    """Log the number of images that could not be read, and the first of them; nothing if there are none."""
    if faults:
        lines = [f"  {fault}" for fault in faults[:_SHOWN]]
        lines += [f"  and {len(faults) - _SHOWN} more"] * (len(faults) > _SHOWN)
        log.warning("%s: %d images could not be read and were skipped\n%s", when, len(faults), "\n".join(lines))
