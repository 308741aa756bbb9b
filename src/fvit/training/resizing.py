"""Checkpoints for images of another size than in training: what depends on the size is resampled or begins anew."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from timm.layers import to_2tuple
from torch import Tensor, nn

from fvit.attention.base import Size
from fvit.config.wording import pixels
from fvit.models.start import load_weights

_PREFIX = "model."  # of the model within its LightningModule


def load_all(model: nn.Module, weights: Mapping[str, Tensor], img_size: int | Size) -> None:
    """Load the `state_dict` of a checkpoint, whose images had `img_size` pixels, resampled to those of `model`.

    Raises:
        ValueError: a weight is missing, does not fit, or is one too many.
    """
    weights = {name.removeprefix(_PREFIX): weight for name, weight in weights.items()}
    transfer = load_weights(model, weights, img_size=img_size)
    if transfer.initialised or transfer.unused:
        raise ValueError(
            f"the checkpoint's weights, for images of {pixels(img_size)}, do not fit the model: {transfer}"
        )


def resize_checkpoint(checkpoint: dict[str, Any], module: LightningModule) -> list[str]:
    """Make a checkpoint fit the image size of `module`, in place; nothing if it does.

    Weights and their moving average are resampled as `load_all` does. The optimizer's state of a resampled parameter is
    removed, so that it begins anew: it describes gradients on another grid, and interpolating second moments would
    make some of them negative. All else stays bit by bit.

    Returns:
        the names of the parameters that were resampled.

    Raises:
        ValueError: the model's weights depend on the size in a way that cannot be resampled.
    """
    if "state_dict" not in checkpoint:  # a sharded one is read in place
        return []
    trained, wanted = checkpoint["hyper_parameters"]["img_size"], module.hparams.img_size
    if to_2tuple(trained) == to_2tuple(wanted):
        return []
    resampled: dict[str, None] = {}
    for key in ("state_dict", "current_model_state"):  # the second one beside an average
        if key in checkpoint:
            changed = _resampled(module.model, checkpoint[key], trained)
            checkpoint[key] = {**checkpoint[key], **changed}
            resampled |= dict.fromkeys(changed)
    checkpoint["optimizer_states"] = [
        _without(state, resampled, module) for state in checkpoint.get("optimizer_states", ())
    ]
    checkpoint["hyper_parameters"] = {**checkpoint["hyper_parameters"], "img_size": wanted}
    return [name for name, _ in module.named_parameters() if name in resampled]


def _resampled(model: nn.Module, weights: Mapping[str, Tensor], img_size: int | Size) -> dict[str, Tensor]:
    """Those of the weights of a LightningModule that change with the size of images."""
    # A copy, because resizing a model replaces parameters that an optimizer or a freeze may know.
    resized = copy.deepcopy(model)
    load_all(resized, {name: weight for name, weight in weights.items() if name.startswith(_PREFIX)}, img_size)
    found = {f"{_PREFIX}{name}": weight for name, weight in resized.state_dict().items()}
    return {name: new for name, new in found.items() if not torch.equal(new, weights[name].to(new))}


def _without(state: dict[str, Any], names: Iterable[str], module: LightningModule) -> dict[str, Any]:
    """An optimizer's state without that of the named parameters, which it numbers in the order of its groups."""
    dropped = {id(parameter) for name, parameter in module.named_parameters() if name in names}
    groups = module.build_optimizer().param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    anew = {number for number, parameter in zip(numbers, parameters, strict=False) if id(parameter) in dropped}
    return {**state, "state": {number: value for number, value in state["state"].items() if number not in anew}}
