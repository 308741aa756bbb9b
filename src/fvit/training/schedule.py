"""The learning rate of each optimizer step: timm's schedules."""

from collections.abc import Mapping
from typing import Any

from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer


def build_schedule(optimizer: Optimizer, options: Mapping[str, Any], updates: int, per_epoch: int) -> Scheduler:
    """timm's schedule, stepped every update.

    Args:
        optimizer: whose learning rates it sets; those that it has are the peak.
        options: of ``timm.scheduler.create_scheduler_v2``; lengths in epochs. ``warmup_epochs=None`` is an eighth of
            the run, at most 5 epochs.
        updates: length of the run in updates.
        per_epoch: updates per epoch.

    Raises:
        ValueError: the schedule does not fit into the run.
    """
    options, epochs = dict(options), updates / per_epoch
    if options.get("warmup_epochs", 0) is None:
        options["warmup_epochs"] = min(5, epochs / 8)
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer, num_epochs=epochs, updates_per_epoch=per_epoch, step_on_epochs=False, **options
        )
    except ValueError as error:
        raise ValueError(
            f"the schedule does not fit into {updates} updates, {per_epoch} per epoch ({error}); "
            "change scheduler.warmup_epochs or scheduler.decay_epochs, or train longer"
        ) from error
    return scheduler
