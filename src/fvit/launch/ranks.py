"""Which of a run's processes this one is, and who has started them: we, or somebody else, torchrun or srun.

Of somebody else's processes one composes the configuration, and the others get it. Each would otherwise compose for
itself, in a folder of its own, and a sweep with a sampler would give each other hyperparameters.
"""

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fvit.config.errors import RunError

if TYPE_CHECKING:
    from torch.distributed import Store

_PATIENCE = timedelta(minutes=10)


def external_rank() -> int | None:
    """This process's rank among those that torchrun or srun has started; None if nobody did, or it is the only one."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and int(os.environ.get(world, "1")) > 1:
            return int(os.environ[rank])
    return None


def is_first() -> bool:
    """Whether this is the first of a run's processes, or the only one: it speaks for all of them."""
    rank = external_rank()
    if rank is None:  # `launch` numbers machines and their processes
        return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))
    return rank == 0


def each_decides(trainer: dict[str, Any]) -> bool:
    """Whether several machines take part, of which each composes for itself (NODE_RANK)."""
    return trainer["num_nodes"] > 1 and external_rank() is None


def check_world(trainer: dict[str, Any]) -> None:
    """Hold the number of processes that were started against what is configured.

    Raises:
        ValueError: they differ.
    """
    starter, variable = ("torchrun", "WORLD_SIZE") if "RANK" in os.environ else ("srun", "SLURM_NTASKS")
    started, devices = int(os.environ[variable]), trainer["devices"]
    wanted = trainer["num_nodes"] * (len(devices) if isinstance(devices, list) else devices) if devices != "auto" else 0
    if wanted != started:
        raise ValueError(
            f"{starter} has started {started} processes, and trainer.devices={devices} with trainer.num_nodes="
            f"{trainer['num_nodes']} makes {wanted or 'another number'}; "
            f"take hardware={'torchrun' if starter == 'torchrun' else 'slurm'}, which counts them"
        )


class ConfigBroadcast:
    """Hands the configurations of one run, or of a sweep's jobs, from rank 0 to the others."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._sent = self._received = 0

    def send(self, config: dict[str, Any] | None) -> None:
        """On rank 0: the next job's configuration, or None when there is none left."""
        self._connect(server=True).set(f"job-{self._sent}", json.dumps(config))
        self._sent += 1

    def receive(self) -> dict[str, Any] | None:
        """On the others: what rank 0 sends next.

        Raises:
            RunError: it sends nothing.
        """
        from torch.distributed import DistError

        key = f"job-{self._received}"
        try:
            store = self._connect(server=False)
            # A job of a sweep lasts as long as it lasts; rank 0's start does not.
            store.wait([key], _PATIENCE if self._received == 0 else timedelta(days=365))
            config = json.loads(store.get(key))
        except DistError as error:
            raise RunError(f"rank 0 has sent no configuration: {error}") from error
        self._received += 1
        return config

    def _connect(self, server: bool) -> "Store":
        if self._store is None:
            # Imported here, because a run of one process composes without torch.
            from torch.distributed import PrefixStore, TCPStore

            address, port = _meeting_place()
            # torchrun's agent serves already. Else rank 0 does, and the process group will share what it serves.
            server = server and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
            options = dict(wait_for_workers=False, timeout=_PATIENCE, multi_tenant=True)
            store = TCPStore(address, port, is_master=server, **options)
            self._store = PrefixStore(f"fvit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        return self._store


def _meeting_place() -> tuple[str, int]:
    if "RANK" in os.environ:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    from lightning.fabric.plugins.environments import SLURMEnvironment

    environment = SLURMEnvironment()
    return environment.main_address, environment.main_port
