"""Build a model from plain arguments: a name that timm knows, and the attention to put into it."""

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fvit.models.backbones.backbone import Backbone
from fvit.models.backbones.released import ARGUMENTS
from fvit.models.exchange import exchange
from fvit.models.spec import AttentionSpec, BlockSpec
from fvit.models.transfer import matching_weights, transfer_weights
from fvit.models.weights import read_file, weights_in


def build(
    name: str,
    img_size: int,
    num_classes: int,
    attention: AttentionSpec | Sequence[AttentionSpec] | None = None,
    blocks: BlockSpec | None = None,
    keep: Sequence[str] = (),
    pretrained: bool = False,
    weights: Mapping[str, Tensor] | None = None,
    exchanged: bool | None = False,
    outputs: Sequence[int | None] | None = None,
    **options: Any,
) -> nn.Module:
    """A timm model for images of `img_size` pixels, with its attention exchanged if `attention` is given.

    Args:
        name: one of ``timm.list_models()``.
        img_size: side of the images in pixels.
        num_classes: number of outputs of the head.
        attention: what `exchange` accepts; None for the model's own attention.
        blocks: the blocks to exchange, as in `exchange`; all if None.
        keep: projections whose weights are transferred to the new attention, as in `exchange`.
        pretrained: load timm's weights (downloads them once) before the exchange.
        weights: initial weights, loaded where name and shape match; `model.weight_transfer` holds the outcome.
        exchanged: whether `weights` come from a model with this attention, and so are loaded after the exchange;
            otherwise they are loaded before it, like timm's. None: whichever takes more of them.
        outputs: whose rows of the head in `weights` each class takes, as in `transfer_weights`.
        options: further arguments of ``timm.create_model``, such as `embed_dim`, `depth`, `drop_path_rate`, or
            ``pretrained_cfg_overlay={"file": path}`` for a file of pretrained weights.

    Raises:
        ValueError: unknown model or option, unsupported image size or host, unavailable weights, `blocks` or `keep`
            without `attention`, or `keep` with `exchanged`.
    """
    for key, value in (("blocks", blocks), ("keep", keep)):
        if attention is None and value not in (None, [], ()):
            raise ValueError(f"{key}={value!r} has no effect with attention=native; choose an attention to exchange")
    if keep and exchanged:
        raise ValueError(
            f"keep={keep!r} has no effect with weights of a model that has the same attention: all are loaded"
        )
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise ValueError(f"unknown model '{name}'{_near(name, timm.list_models())}")
    model = _create(name, img_size, pretrained=pretrained, num_classes=num_classes, **options)
    check_stride(model, name, img_size, options.get("in_chans") or 3)
    if weights is not None and isinstance(model, Backbone):
        weights = model.from_released(weights)
    if weights is not None and not exchanged:
        model.weight_transfer = transfer_weights(model, weights, outputs)
    if attention is not None:
        exchange(model, attention, blocks, keep)
    if weights is not None and exchanged is None and attention is not None:
        exchanged = matching_weights(model, weights) > len(model.weight_transfer.loaded)
    if weights is not None and exchanged:
        model.weight_transfer = transfer_weights(model, weights, outputs)
        model.exchange_report = ()  # its initialised weights have been replaced
    return model


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""


def _create(name: str, img_size: int, **options: Any) -> nn.Module:
    try:
        model = _load(name, img_size=img_size, **options)
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise _option_error(name, options, error) from error
    else:
        _check_patches(model, img_size)
        return model
    # Convolutional models run on images of any size and have no img_size.
    try:
        return _load(name, **options)
    except TypeError as error:
        raise _option_error(name, options, error) from error


def _load(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    overlay = options.get("pretrained_cfg_overlay", {})
    if pretrained and (file := overlay.get("file")) is not None:
        options["pretrained_cfg_overlay"] = {**overlay, "state_dict": _read_pretrained(name, Path(file))}
    try:
        with torch.serialization.safe_globals(ARGUMENTS):
            model = timm.create_model(name, pretrained=pretrained, **options)
        if isinstance(getattr(model, "pretrained_cfg", None), dict):
            model.pretrained_cfg.pop("state_dict", None)  # copies of the model would copy it
        return model
    except (OSError, RuntimeError, UnpicklingError) as error:
        # OSError: no network. RuntimeError: no published weights, or another shape. UnpicklingError: not a checkpoint.
        if not pretrained:
            raise
        config = timm.get_pretrained_cfg(name)
        origin = f" (released at {config.origin_url})" if config and config.origin_url else ""
        raise ValueError(
            f"the pretrained weights of {name} cannot be loaded: {' '.join(str(error).split())[:300]}\n"
            f"Set model.pretrained=false, or name a file that you have{origin}: "
            "+model.pretrained_cfg_overlay.file=FILE"
        ) from error


def _read_pretrained(name: str, file: Path) -> dict[str, Tensor] | None:
    """The weights in a file for timm; None for those of JAX, which timm converts itself."""
    if not file.is_file():
        raise ValueError(f"pretrained_cfg_overlay.file={file} does not exist")
    if file.suffix == ".npz":
        return None
    try:
        weights, _ = weights_in(read_file(file), file)
    except ValueError as error:
        raise ValueError(f"the pretrained weights of {name} cannot be loaded: {error}") from error
    # Lightning and others keep the whole model as one part of theirs.
    while len({key.partition(".")[0] for key in weights}) == 1 and all("." in key for key in weights):
        weights = {key.partition(".")[2]: weight for key, weight in weights.items()}
    return weights


def _option_error(name: str, options: Mapping[str, Any], error: TypeError) -> ValueError:
    """The error to raise for a TypeError of the model's constructor."""
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not unexpected or unexpected[1] not in options:
        return ValueError(f"model {name} cannot be built with these options: {error}")
    with torch.device("meta"):
        kind = type(timm.create_model(name))
    known: set[str] = set()
    for cls in (cls for cls in kind.__mro__ if "__init__" in vars(cls)):
        parameters = inspect.signature(cls.__init__).parameters.values()
        known |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if all(p.kind != p.VAR_KEYWORD for p in parameters):  # otherwise it passes the rest on to its base class
            break
    near = _near(unexpected[1], known)
    return ValueError(
        f"model {name} has no option '{unexpected[1]}'{near}; it takes: {', '.join(sorted(known - {'self'}))}"
    )


def _check_patches(model: nn.Module, img_size: int) -> None:
    patch_size = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    patch_height, patch_width = patch_size if isinstance(patch_size, tuple) else (patch_size, patch_size)
    if img_size % patch_height or img_size % patch_width:
        raise ValueError(
            f"images of {img_size} px do not divide into patches of {patch_height} px; "
            f"use data.img_size={max(1, round(img_size / patch_height)) * patch_height}"
        )


def check_stride(model: nn.Module, name: str, img_size: int, in_chans: int = 3) -> None:
    """Raise ValueError if the model's stride does not divide `img_size` and an image of that size does not pass.

    The forward pass runs on the meta device and computes nothing. Most convolutional models round up and pass. Models
    without timm's `feature_info` are not checked.
    """
    stages = getattr(model, "feature_info", None)
    if not isinstance(stages, list) or not stages or img_size % stages[-1]["reduction"] == 0:
        return
    stride = stages[-1]["reduction"]
    meta = {key: t.to("meta") for key, t in [*model.named_parameters(), *model.named_buffers()]}
    dtype = next(model.parameters()).dtype
    training = [module for module in model.modules() if module.training]
    # In training mode, batch norm rejects a feature map of one position and one image.
    model.eval()
    try:
        with torch.no_grad():
            functional_call(model, meta, (torch.empty(1, in_chans, img_size, img_size, device="meta", dtype=dtype),))
    except RuntimeError as error:
        nearest = max(1, round(img_size / stride)) * stride
        raise ValueError(
            f"model {name} does not run on images of {img_size} px; use data.img_size={nearest}, or another multiple "
            f"of its stride of {stride} px"
        ) from error
    finally:
        for module in training:
            module.training = True
