"""Ranks that torchrun or srun started: which one this process is, and the configuration that rank 0 sends to all.

Each rank would otherwise compose a configuration of its own, in its own run directory, and the ranks of a random search
would train with different hyperparameters.
"""

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fvit.config.errors import RunError

if TYPE_CHECKING:
    from torch.distributed import Store

_TIMEOUT = timedelta(minutes=10)


def external_rank() -> int | None:
    """This process's rank among those that torchrun or srun started; None if it was started alone."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and int(os.environ.get(world, "1")) > 1:
            return int(os.environ[rank])
    return None


def is_rank_zero() -> bool:
    """Whether this is rank 0, whoever started it, or the only process."""
    rank = external_rank()
    return os.environ.get("LOCAL_RANK", "0") == "0" if rank is None else rank == 0


def check_world(trainer: dict[str, Any]) -> None:
    """Check that as many processes were started as the configuration has devices.

    Raises:
        ValueError: there are more or fewer; or there are several machines and neither torchrun nor srun.
    """
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    if external_rank() is None:
        if nodes > 1:
            raise ValueError(
                f"trainer.num_nodes={nodes} needs torchrun with hardware=torchrun, or srun with hardware=slurm"
            )
        return
    starter, variable = ("torchrun", "WORLD_SIZE") if "RANK" in os.environ else ("srun", "SLURM_NTASKS")
    started = int(os.environ[variable])
    wanted = nodes * (len(devices) if isinstance(devices, list) else devices) if devices != "auto" else None
    if wanted != started:
        raise ValueError(
            f"{starter} started {started} processes, but trainer.devices={devices} and trainer.num_nodes={nodes} make "
            f"{wanted or 'another number'}; use hardware={'torchrun' if starter == 'torchrun' else 'slurm'}, which "
            "counts them"
        )


class ConfigBroadcast:
    """Sends configurations, of one run or of each job of a sweep, from rank 0 to the other ranks."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._sent = self._received = 0

    def send(self, config: dict[str, Any] | None) -> None:
        """On rank 0: the next configuration, or None after the last one."""
        self._connect(serve=True).set(f"job-{self._sent}", json.dumps(config))
        self._sent += 1

    def receive(self) -> dict[str, Any] | None:
        """On the other ranks: what rank 0 sends next.

        Raises:
            RunError: it sends nothing.
        """
        from torch.distributed import DistError

        key = f"job-{self._received}"
        try:
            store = self._connect(serve=False)
            # The jobs of a sweep may take days; the start of rank 0 may not.
            store.wait([key], _TIMEOUT if self._received == 0 else timedelta(days=365))
            config = json.loads(store.get(key))
        except DistError as error:
            raise RunError(f"rank 0 sent no configuration: {error}") from error
        self._received += 1
        return config

    def _connect(self, serve: bool) -> "Store":
        if self._store is None:
            # Imported here, because a single process composes its configuration without torch.
            from torch.distributed import PrefixStore, TCPStore

            address, port = _master()
            # torchrun's agent serves the store already; else rank 0 does, and the process group shares its server.
            serve = serve and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
            options = dict(wait_for_workers=False, timeout=_TIMEOUT, multi_tenant=True)
            store = TCPStore(address, port, is_master=serve, **options)
            self._store = PrefixStore(f"fvit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        return self._store


def _master() -> tuple[str, int]:
    if "RANK" in os.environ:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    from lightning.fabric.plugins.environments import SLURMEnvironment

    environment = SLURMEnvironment()
    return environment.main_address, environment.main_port
