"""FSDP2: each rank holds a shard of weights, gradients and optimizer state, and gathers one block at a time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer


def shard(model: nn.Module, mesh: DeviceMesh, precision: str = "32-true") -> None:
    """Shard a model over `mesh` in place, block by block; parameter names stay.

    With `precision` ``bf16-mixed`` weights are gathered in bfloat16, half the traffic, and gradients are reduced in
    float32. Autocast alone would gather float32, and save its own bfloat16 copy of all weights for the backward pass.
    """
    if isinstance(model, FSDPModule):
        return
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = mixed if precision == "bf16-mixed" else MixedPrecisionPolicy()
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a timm or fvit model, without nested ones.

    timm keeps them in lists named ``blocks``, ``blocks_token_only``, …, of the model or its stages; in a few models the
    stages themselves are such lists.
    """
    found = list(_in_lists(model))
    if not found:
        stages = [stage for name in ("stages", "layers") for stage in getattr(model, name, ())]
        found = [block for stage in stages for block in (stage if isinstance(stage, nn.Sequential) else [stage])]
    return [block for block in found if any(True for _ in block.parameters())]


def numbered_by_model(state: dict[str, Any], optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """The optimizer's `state` with parameters numbered in the order of the model instead of the parameter groups.

    torch loads either; Lightning loads only the former into shards.
    """
    places = {id(parameter): place for place, parameter in enumerate(model.parameters())}
    numbers = [places[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    return {
        **state,
        "state": {numbers[number]: value for number, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [numbers[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }


def _in_lists(module: nn.Module) -> Iterator[nn.Module]:
    for name, child in module.named_children():
        if "blocks" in name and isinstance(child, nn.Sequential | nn.ModuleList):
            yield from child
        else:
            yield from _in_lists(child)
