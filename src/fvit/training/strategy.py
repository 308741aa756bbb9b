"""Lightning's strategies, with the options that the group `hardware` has for them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def build_strategy(name: str, processes: int, options: Mapping[str, Any]) -> Strategy | str:
    """The strategy `name` of ``trainer.strategy``.

    Args:
        name: ``auto``, ``ddp``, ``ddp_find_unused_parameters_true`` or ``fsdp``.
        processes: the number of ranks.
        options: ``gradient_as_bucket_view`` and ``static_graph`` of torch's DistributedDataParallel, and ``timeout``,
            in minutes.
    """
    if name == "auto":
        return name
    timeout = timedelta(minutes=options["timeout"])
    if name == "fsdp":
        return ShardedStrategy(processes, timeout)
    return ReplicatedStrategy(
        find_unused_parameters=name == "ddp_find_unused_parameters_true",
        gradient_as_bucket_view=options["gradient_as_bucket_view"],
        static_graph=options["static_graph"],
        timeout=timeout,
    )


class ReplicatedStrategy(DDPStrategy):
    """DDP. It sends buffers from rank 0 to all in each step only for batch normalisation: others stay as they are."""

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        replicated = super()._setup_model(model)
        changes = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())
        replicated.broadcast_buffers = changes  # the argument of this name is deprecated since torch 2.14
        return replicated


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2. Its checkpoints are one file with whole weights, as on one device, which any hardware can load.

    The gradients of accumulated micro batches stay on their rank and are reduced once, with those of the last one.
    Lightning does so for DDP only.
    """

    def __init__(self, processes: int, timeout: timedelta) -> None:
        super().__init__(
            data_parallel_size=processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timeout,
        )

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        model = self.lightning_module.model
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
