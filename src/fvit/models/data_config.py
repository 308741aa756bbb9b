"""The data configuration of pretrained weights: how the images were prepared on which they were trained."""

from collections.abc import Mapping
from typing import Any

from timm.data import resolve_data_config

from fvit.models.hub import source_of

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


def data_config(name: str, overlay: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The data configuration of a pretrained model, under the names of `fvit.data.ImageDataModule`'s arguments.

    Args:
        name: one of timm's, with or without a tag (``vit_small_patch16_224.augreg_in21k``), ``hf-hub:OWNER/NAME`` or
            ``local-dir:FOLDER``.
        overlay: values that replace those of timm's `pretrained_cfg`, under its names (``mean``, ``input_size``, …).

    Returns:
        ``img_size`` (the side of a square in pixels, or height and width), ``crop_pct``, ``crop_mode``,
        ``interpolation``, ``mean`` and ``std``, as plain numbers, strings and lists.

    Raises:
        ValueError: there is no such model, or it is on a hub that cannot be reached.
    """
    config = resolve_data_config(pretrained_cfg={**source_of(name)[1], **(overlay or {}), "architecture": name})
    height, width = config["input_size"][1:]
    return {
        "img_size": height if height == width else [height, width],
        "crop_pct": config["crop_pct"],
        "crop_mode": config["crop_mode"],
        # timm's "random" is one of the last two, per image.
        "interpolation": config["interpolation"] if config["interpolation"] in _INTERPOLATIONS else "bicubic",
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }
