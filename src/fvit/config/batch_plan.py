"""Splits a recipe's global batch over ranks and accumulation steps."""

from dataclasses import dataclass

from fvit.config.wording import count


@dataclass(frozen=True)
class BatchPlan:
    """How the images of one optimizer step are split.

    Attributes:
        global_batch: images per optimizer step.
        world_size: number of ranks.
        per_device: images per rank and forward pass.
        accumulate: forward passes per optimizer step.
    """

    global_batch: int
    world_size: int
    per_device: int
    accumulate: int

    def __str__(self) -> str:
        text = f"{count(self.global_batch, 'image')} per step = {self.per_device} per device"
        text += f" × {self.world_size} devices" if self.world_size > 1 else ""
        return text + (f" × {self.accumulate} accumulated" if self.accumulate > 1 else "")


def plan_batches(global_batch: int, world_size: int, micro_batch: int | None = None) -> BatchPlan:
    """Split `global_batch` over `world_size` ranks, in the fewest passes of at most `micro_batch` images.

    Raises:
        ValueError: the batch does not divide evenly over the ranks.
    """
    share, rest = divmod(global_batch, world_size)
    if rest or not share:
        below, above = share * world_size, (share + 1) * world_size
        fitting = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"global_batch_size={global_batch} does not divide over {world_size} devices; "
            f"use global_batch_size={fitting}"
        )
    limit = min(share, micro_batch or share)
    per_device = next(size for size in range(limit, 0, -1) if share % size == 0)
    return BatchPlan(global_batch, world_size, per_device, share // per_device)
