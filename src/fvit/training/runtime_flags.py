"""How a model is computed: options that change speed and memory but not results."""

import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule

log = logging.getLogger(__name__)


def set_up(config: dict[str, Any], module: "LightningModule", data: "LightningDataModule") -> None:
    """Apply ``tf32``, ``channels_last``, ``grad_checkpointing`` and ``compile``, in place.

    Raises:
        ValueError: the model does not support gradient checkpointing.
    """
    # They hold for the whole process, so the next job of a sweep must reset them.
    torch.set_float32_matmul_precision("high" if config["tf32"] else "highest")
    torch.backends.cudnn.allow_tf32 = config["tf32"]
    if config["channels_last"]:
        _use_channels_last(module.model, data)
    if config["grad_checkpointing"]:
        _checkpoint_gradients(module.model)
    if config["compile"]:
        # With data.size_schedule torch looks at the gradients of resampled weights, and warns that there are none.
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        module.model.compile()


def _use_channels_last(model: nn.Module, data: "LightningDataModule") -> None:
    if sum(isinstance(part, nn.Conv2d) for part in model.modules()) < 2:
        log.warning("channels_last=true has almost no effect on %s, which has no feature maps", type(model).__name__)
    model.to(memory_format=torch.channels_last)
    data.batch_transform.memory_format = torch.channels_last


def _checkpoint_gradients(model: nn.Module) -> None:
    name = type(model).__name__
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:  # timm asserts that it is not requested
        raise ValueError(f"{name} does not support gradient checkpointing: set grad_checkpointing=false") from error
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
        log.warning(
            "grad_checkpointing=true: %s has batch normalisation, whose running statistics are then updated twice per "
            "step; loss and gradients stay the same, validation accuracy may not",
            name,
        )
