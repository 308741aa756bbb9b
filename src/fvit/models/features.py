"""Features: one vector per image, of what a model's head reads or of one of its layers."""

import inspect
from typing import Literal

import torch
from torch import Tensor, nn

Pool = Literal["token", "avg"]


def features(model: nn.Module, images: Tensor, layer: int | None = None, pool: Pool | None = None) -> Tensor:
    """Features of images [B, 3, H, W], float [B, C].

    Args:
        model: one of timm or fvit, in evaluation mode.
        images: normalised.
        layer: a block or, in models with stages, a stage, counted from 0 or, below 0, from the end; its output passes
            the model's last norm, as in DINOv2. None for the input of the classifier.
        pool: ``token`` for the class token, ``avg`` for the mean over the patches; None as the model's own head does.

    Raises:
        ValueError: the model has no such layer, or no class token there.
    """
    if layer is None and pool is None:
        return model.forward_head(model.forward_features(images), pre_logits=True).flatten(1)
    if pool is None:
        pool = "token" if getattr(model, "global_pool", None) == "token" else "avg"
    name = type(model).__name__
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"{name} gives the features of its head alone: leave probe.layer and probe.pool out")
    layers = len(model.feature_info)
    index = layers - 1 if layer is None else layer
    if not -layers <= index < layers:
        raise ValueError(f"probe.layer={layer}: {name} has layers 0 to {layers - 1}")
    options = {"indices": [index], "norm": True, "output_fmt": "NCHW", "intermediates_only": True}
    prefix = "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
    if prefix and getattr(model, "num_prefix_tokens", 0):
        [(patches, tokens)] = model.forward_intermediates(images, return_prefix_tokens=True, **options)
    else:
        [patches], tokens = model.forward_intermediates(images, **options), None
    if pool == "avg":
        return patches.mean(dim=(2, 3))
    if tokens is None or getattr(model, "cls_token", torch.empty(0)) is None:
        raise ValueError(f"probe.pool=token: {name} has no class token there; use probe.pool=avg")
    return tokens[:, 0]
