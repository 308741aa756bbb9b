"""How a model computes, which changes its speed and its memory and not its results."""

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule

log = logging.getLogger(__name__)


def set_up(config: dict[str, Any], module: "LightningModule", data: "LightningDataModule") -> None:
    """Apply ``tf32``, ``channels_last``, ``grad_checkpointing`` and ``compile``, in place.

    Raises:
        ValueError: the model cannot do it.
    """
    # Of the whole process, and so set back where the last job of a sweep had it.
    torch.set_float32_matmul_precision("high" if config["tf32"] else "highest")
    torch.backends.cudnn.allow_tf32 = config["tf32"]
    if config["channels_last"]:
        _channels_last(module.model, data)
    if config["grad_checkpointing"]:
        _checkpoint_gradients(module.model)
    if config["compile"]:
        module.model.compile()


def _channels_last(model: nn.Module, data: "LightningDataModule") -> None:
    if sum(isinstance(part, nn.Conv2d) for part in model.modules()) < 2:
        log.warning("channels_last=true has next to no effect on %s, whose tokens are no maps", type(model).__name__)
    model.to(memory_format=torch.channels_last)
    data.batch_transform.memory_format = torch.channels_last


def _checkpoint_gradients(model: nn.Module) -> None:
    name = type(model).__name__
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:  # timm asserts that it is not asked for
        raise ValueError(f"{name} cannot compute its blocks again: set grad_checkpointing=false") from error
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
        log.warning(
            "grad_checkpointing=true: %s has batch normalisation, whose running statistics then move twice a step; "
            "loss and gradients stay the same, accuracies in validation may not",
            name,
        )
