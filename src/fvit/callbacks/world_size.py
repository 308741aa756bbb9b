"""Checks that a run has the processes it is configured for."""

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

from fvit.config.errors import RunError


class WorldSizeCheck(Callback):
    """Ends a run whose process group does not have the configured size, devices times machines.

    Lightning adopts a process group that an earlier job of a sweep left behind, and takes the world of SLURM or
    torchrun for its own whatever is configured: each rank would then train on its share of the images alone, without
    an error.

    Raises:
        RunError: naming both sizes.
    """

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        configured = trainer.num_devices * trainer.num_nodes
        found = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if found != configured:
            raise RunError(
                f"the run is configured for {configured} processes and finds {found}; start it in a new process, "
                "without LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment"
            )
