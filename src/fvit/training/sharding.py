"""FSDP2: each rank holds a share of weights, gradients and optimizer state, and gathers a block when it computes it."""

from collections.abc import Iterator

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a model over `mesh`, block by block; in place, names of weights stay."""
    if isinstance(model, FSDPModule):
        return
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model of timm or of ours, without those inside another one.

    timm keeps them in a list called ``blocks``, ``blocks_token_only``, …, of the model or of its stages; a few models
    have them as the items of stages themselves.
    """
    found = list(_in_lists(model))
    if not found:
        stages = [stage for name in ("stages", "layers") for stage in getattr(model, name, ())]
        found = [block for stage in stages for block in (stage if isinstance(stage, nn.Sequential) else [stage])]
    return [block for block in found if any(True for _ in block.parameters())]


def _in_lists(module: nn.Module) -> Iterator[nn.Module]:
    for name, child in module.named_children():
        if "blocks" in name and isinstance(child, nn.Sequential | nn.ModuleList):
            yield from child
        else:
            yield from _in_lists(child)
