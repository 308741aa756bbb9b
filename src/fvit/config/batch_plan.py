"""From a recipe's global batch to what a device gets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step's images are spread.

    Attributes:
        global_batch: images an optimizer step.
        world_size: devices.
        per_device: images a device takes at once.
        accumulate: batches a device takes for one optimizer step.
    """

    global_batch: int
    world_size: int
    per_device: int
    accumulate: int

    def __str__(self) -> str:
        text = f"{self.global_batch} images a step = {self.per_device} a device"
        text += f" × {self.world_size} devices" if self.world_size > 1 else ""
        return text + (f" × {self.accumulate} accumulated" if self.accumulate > 1 else "")


def plan_batches(global_batch: int, world_size: int, micro_batch: int | None = None) -> BatchPlan:
    """Split `global_batch` exactly over `world_size` devices, in the fewest passes of at most `micro_batch` images.

    Raises:
        ValueError: the devices do not divide the batch.
    """
    share, rest = divmod(global_batch, world_size)
    if rest or not share:
        below, above = share * world_size, (share + 1) * world_size
        fitting = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"global_batch_size={global_batch} does not divide over {world_size} devices; "
            f"take global_batch_size={fitting}"
        )
    limit = min(share, micro_batch or share)
    per_device = next(size for size in range(limit, 0, -1) if share % size == 0)
    return BatchPlan(global_batch, world_size, per_device, share // per_device)
