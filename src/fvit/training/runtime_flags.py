"""How models are computed: options that change speed and memory, and results by no more than rounding."""

import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule

log = logging.getLogger(__name__)


def set_up(config: dict[str, Any], module: "LightningModule", data: "LightningDataModule") -> None:
    """Apply ``tf32``, ``channels_last``, ``fast_norm``, ``grad_checkpointing`` and ``compile``, in place.

    A teacher is computed like its student.

    Raises:
        ValueError: the model does not support gradient checkpointing.
    """
    teacher = getattr(module, "teacher", None)
    models = [module.model] if teacher is None else [module.model, teacher.model]
    _use_tf32(config["tf32"])
    if config["channels_last"]:
        _use_channels_last(models, data)
    if config["fast_norm"]:
        _use_fast_norm(models)
    if config["grad_checkpointing"]:
        _checkpoint_gradients(module.model)
    if config["compile"]:
        # With data.size_schedule torch looks at the gradients of resampled weights, and warns that there are none.
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        for model in models:
            model.compile(mode="default" if config["compile"] is True else config["compile"])


def _use_tf32(use: bool) -> None:
    """For the whole process, so the next job of a sweep must reset it.

    These two set torch's newer ``fp32_precision`` of cuBLAS and cuDNN as well. Set alone, the newer ones make
    ``get_float32_matmul_precision`` raise an error, which Lightning calls on CUDA, and Inductor.
    """
    torch.set_float32_matmul_precision("high" if use else "highest")
    torch.backends.cudnn.allow_tf32 = use


def _use_channels_last(models: list[nn.Module], data: "LightningDataModule") -> None:
    student = models[0]
    if sum(isinstance(part, nn.Conv2d) for part in student.modules()) < 2:
        log.warning("channels_last=true has almost no effect on %s, which has no feature maps", type(student).__name__)
    for model in models:
        model.to(memory_format=torch.channels_last)
    data.batch_transform.memory_format = torch.channels_last


def _use_fast_norm(models: list[nn.Module]) -> None:
    """As ``timm.layers.set_fast_norm``, which only works before a model is built and on all models after it."""
    norms = [part for model in models for part in model.modules() if hasattr(part, "_fast_norm")]
    if not norms:
        log.warning("fast_norm=true has no effect on %s, which has no norms of timm", type(models[0]).__name__)
    for norm in norms:
        norm._fast_norm = True


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
