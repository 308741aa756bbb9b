"""A model from plain arguments: a name that timm knows, and the attention to put into it."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
from torch import Tensor, nn

from fvit.models.exchange import exchange
from fvit.models.inherit import inherit
from fvit.models.sizes import check_size
from fvit.models.spec import AttentionSpec, BlockSpec


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
    blocks: BlockSpec | None = None,
    keep: Sequence[str] = (),
    pretrained: bool = False,
    weights: Mapping[str, Tensor] | None = None,
    exchanged: bool = False,
    **options: Any,
) -> nn.Module:
    """A timm model for images of `img_size` pixels, its attention exchanged where `attention` is given.

    Args:
        name: one of ``timm.list_models()``.
        img_size: side of the images in pixels; models of fixed size are built for it.
        num_classes: width of the head.
        attention: what `exchange` accepts; None leaves the model as timm makes it.
        blocks: the blocks to exchange, as for `exchange`; all if None.
        keep: projections of timm's attention that the new one takes over, as for `exchange`.
        pretrained: load timm's weights (downloads them once), before the exchange.
        weights: weights to begin with, where they fit by name and shape; `model.inheritance` then says which did.
        exchanged: whether `weights` are those of a model with this attention, to be taken after the exchange, which
            is no surgery then; else they are taken before it, as timm's are.
        options: further arguments of ``timm.create_model``, such as `embed_dim`, `depth`, `drop_path_rate`, or
            ``pretrained_cfg_overlay={"file": path}`` for weights of your own.

    Raises:
        ValueError: unknown model, an option or a size that it does not take, weights that cannot be had, a host that
            cannot take the attention, or `blocks` or `keep` without an attention to exchange;
            `keep` with weights that are exchanged.
    """
    if attention is None and (blocks is not None or keep):
        raise ValueError("blocks and keep have no effect without an attention to exchange; choose one")
    if keep and exchanged:
        raise ValueError("keep has no effect with the weights of a model of the same attention: all are taken")
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), cutoff=0.5)
        hint = f", did you mean {' or '.join(near)}?" if near else "; timm.list_models() lists all"
        raise ValueError(f"unknown model '{name}'{hint}")
    model = _create(name, img_size, pretrained=pretrained, num_classes=num_classes, **options)
    check_size(model, name, img_size, options.get("in_chans") or 3)
    if weights is not None and not exchanged:
        model.inheritance = inherit(model, weights)
    if attention is not None:
        exchange(model, attention, blocks, keep)
    if weights is not None and exchanged:
        model.inheritance = inherit(model, weights)
        model.exchange_report = ()  # what it calls initialised has its weights now
    return model


def _create(name: str, img_size: int, **options: Any) -> nn.Module:
    try:
        model = _load(name, img_size=img_size, **options)
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
        return _load(name, **options)
    except TypeError as error:
        raise ValueError(f"model {name} does not take these options: {error}") from error


def _load(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    """The model as timm makes it, with an error for people where its weights cannot be had."""
    file = options.get("pretrained_cfg_overlay", {}).get("file")
    if pretrained and file is not None and not Path(file).is_file():
        raise ValueError(f"pretrained_cfg_overlay.file={file} does not exist")
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (OSError, RuntimeError, UnpicklingError) as error:
        # No network (OSError), no weights published or of another shape (RuntimeError), no checkpoint at all.
        if not pretrained:
            raise
        raise ValueError(
            f"the pretrained weights of {name} cannot be loaded: {' '.join(str(error).split())[:300]}\n"
            "Set model.pretrained=false, or name a file that you have: +model.pretrained_cfg_overlay.file=FILE"
        ) from error
