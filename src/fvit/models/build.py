"""A model from plain arguments: a name that timm knows, and the attention to put into it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import timm
from torch import nn

from fvit.attention.registry import did_you_mean
from fvit.models.exchange import AttentionSpec, exchange


def attention_spec(config: Mapping[str, Any]) -> AttentionSpec | Sequence[AttentionSpec] | None:
    """What `exchange` takes, from a config of the group `attention`: `native` and `mixed` are no mechanisms."""
    if config["name"] == "native":
        return None
    if config["name"] == "mixed":
        return list(config["layers"])
    return dict(config)


def build(
    name: str,
    img_size: int,
    num_classes: int,
    attention: AttentionSpec | Sequence[AttentionSpec] | None = None,
    blocks: Iterable[int] | None = None,
    pretrained: bool = False,
    **options: Any,
) -> nn.Module:
    """A timm model for images of `img_size` pixels, its attention exchanged where `attention` is given.

    Args:
        name: one of ``timm.list_models()``.
        img_size: side of the images in pixels; models of fixed size are built for it.
        num_classes: width of the head.
        attention: what `exchange` accepts; None leaves the model as timm makes it.
        blocks: indices of the blocks to exchange; all if None.
        pretrained: load timm's weights (downloads them once).
        options: further arguments of ``timm.create_model``, such as `embed_dim`, `depth`, `drop_path_rate`.

    Raises:
        ValueError: unknown model, an option it does not take, or a host that cannot take the attention.
    """
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"unknown model '{name}'{did_you_mean(name, timm.list_models())}")
    model = _create(name, img_size, pretrained=pretrained, num_classes=num_classes, **options)
    if attention is not None:
        exchange(model, attention, blocks)
    return model


def _create(name: str, img_size: int, **options: Any) -> nn.Module:
    try:
        model = timm.create_model(name, img_size=img_size, **options)
    except TypeError as error:
        # Convolutional models work at any size and take no img_size.
        if "img_size" not in str(error):
            raise ValueError(f"model {name} does not take these options: {error}") from error
        return _create_sizeless(name, **options)
    patch_size = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    patch_height, patch_width = patch_size if isinstance(patch_size, tuple) else (patch_size, patch_size)
    if img_size % patch_height or img_size % patch_width:
        raise ValueError(
            f"images of {img_size} px do not divide into patches of {patch_height} px; "
            f"take data.img_size={max(1, round(img_size / patch_height)) * patch_height}"
        )
    return model


def _create_sizeless(name: str, **options: Any) -> nn.Module:
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        raise ValueError(f"model {name} does not take these options: {error}") from error
