"""Holding what the Trainer believes of its world against what is there."""

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

from fvit.config.errors import RunError


class WorldSizeCheck(Callback):
    """Ends a run whose process group has another size than is configured.

    Lightning takes a process group that an earlier job of a sweep has left as its own: each rank that exists then
    trains on its share of the images alone, and nothing fails. And it takes what SLURM or torchrun says for its world,
    however many devices are asked for.

    Args:
        processes: devices × machines, as configured.

    Raises:
        RunError: naming both sizes.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Look, once the group stands."""
        found = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if found != self.processes:
            raise RunError(
                f"the run is configured for {self.processes} processes and finds {found}; start it in a process of "
                "its own, with none of LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set"
            )
