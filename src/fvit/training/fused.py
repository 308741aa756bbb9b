"""timm's optimizers, fused on CUDA: one kernel for many weights, in place of a dozen passes over each."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class
from torch import nn
from torch.optim import Optimizer


def create_optimizer(model: nn.Module, options: Mapping[str, Any], device: torch.device) -> Optimizer:
    """``timm.optim.create_optimizer_v2``, with ``fused=True`` on CUDA where the class takes it.

    Args:
        model: what it optimizes.
        options: timm's arguments; one of ``fused`` and ``foreach`` leaves the choice to the user.
        device: that of the weights.

    Raises:
        ValueError: timm knows no such optimizer; and what the optimizer's class raises.
    """
    if device.type == "cuda" and not {"fused", "foreach"} & options.keys():
        name = options["opt"].lower().rpartition("_")[2]  # lookahead_adamw
        if "fused" in inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters:
            options = {**options, "fused": True}
    optimizer = create_optimizer_v2(model, **options)
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        # Else Lightning, in mixed precision, refuses to clip what a fused optimizer might unscale itself.
        optimizer._step_supports_amp_scaling = False
    return optimizer
