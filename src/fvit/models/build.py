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
from timm.layers import to_2tuple
from torch import Tensor, nn
from torch.func import functional_call

from fvit.attention.base import Size
from fvit.models.backbones.backbone import Backbone
from fvit.models.backbones.released import ARGUMENTS
from fvit.models.exchange import exchange
from fvit.models.hub import impatient, source_of
from fvit.models.spec import AttentionSpec, BlockSpec
from fvit.models.start import Source, start
from fvit.models.transfer import without_prefix
from fvit.models.weights import read_file, weights_in


def build(
    name: str,
    img_size: int | Size,
    num_classes: int,
    attention: AttentionSpec | Sequence[AttentionSpec] | None = None,
    blocks: BlockSpec | None = None,
    keep: Sequence[str] | None = None,
    pretrained: bool = False,
    weights: Mapping[str, Tensor] | None = None,
    source: Source | None = None,
    outputs: Sequence[int | None] | None = None,
    **options: Any,
) -> nn.Module:
    """A timm model for images of `img_size` pixels, with its attention exchanged if `attention` is given.

    Args:
        name: one of ``timm.list_models()``, with or without the tag of its weights, ``hf-hub:OWNER/NAME`` or
            ``local-dir:FOLDER``.
        img_size: of the images in pixels: the side of squares, or height and width.
        num_classes: number of outputs of the head.
        attention: what `exchange` accepts; None for the model's own attention.
        blocks: the blocks to exchange, as in `exchange`; all if None.
        keep: projections whose weights are transferred to the new attention, as in `exchange`; None: all that fit, if
            the model starts from weights.
        pretrained: load timm's weights (downloads them once) before the exchange.
        weights: initial weights, loaded where name and shape match; `model.weight_transfer` holds the outcome.
        source: the model that had `weights`; None if it is unknown: with the model's own attention or with `attention`,
            whichever takes more of them. Positions are resampled if its images had another size.
        outputs: whose rows of the head in `weights` each class takes, as in `transfer_weights`.
        options: further arguments of ``timm.create_model``, such as `embed_dim`, `depth`, `drop_path_rate`, or
            ``pretrained_cfg_overlay={"file": path}`` for a file of pretrained weights.

    Raises:
        ValueError: unknown model or option, unsupported image size or host, unavailable weights, `blocks` or `keep`
            without `attention`, or `keep` with weights of a model that has the same attention.
    """
    img_size = img_size if isinstance(img_size, int) else tuple(img_size)
    for key, value in (("blocks", blocks), ("keep", keep)):
        if attention is None and value not in (None, [], ()):
            raise ValueError(f"{key}={value!r} has no effect with attention=native; choose an attention to exchange")
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise ValueError(f"unknown model '{name}'{_near(name, timm.list_models())}")
    model = _create(name, img_size, pretrained=pretrained, num_classes=num_classes, **options)
    check_stride(model, name, img_size, options.get("in_chans") or 3)
    if weights is not None:
        weights = model.from_released(weights) if isinstance(model, Backbone) else weights
        return start(model, attention, blocks, keep, weights, source, outputs)
    if attention is not None:
        exchange(model, attention, blocks, keep if pretrained else keep or ())
    return model


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""


def _create(name: str, img_size: int | Size, **options: Any) -> nn.Module:
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
    config = {**source_of(name)[1], **overlay} if pretrained or ":" in name else {}
    if pretrained and (file := overlay.get("file")) is not None and not Path(file).is_dir():
        # timm converts weights of JAX, if it is told to.
        weights = None if overlay.get("custom_load") else _read_pretrained(name, Path(file), options)
        options["pretrained_cfg_overlay"] = {**overlay, "state_dict": weights}
    try:
        with torch.serialization.safe_globals(ARGUMENTS), impatient():
            model = timm.create_model(name, pretrained=pretrained, **options)
        if isinstance(getattr(model, "pretrained_cfg", None), dict):
            model.pretrained_cfg.pop("state_dict", None)  # copies of the model would copy it
        return model
    except (OSError, RuntimeError, UnpicklingError) as error:
        # OSError: no network. RuntimeError: no published weights, or another shape. UnpicklingError: not a checkpoint.
        if not pretrained:
            raise
        origin = f" (released at {config['origin_url']})" if config.get("origin_url") else ""
        raise ValueError(
            f"the pretrained weights of {name} cannot be loaded: {' '.join(str(error).split())[:300]}; set "
            f"model.pretrained=false, or name a file that you have{origin}: +model.pretrained_cfg_overlay.file=FILE"
        ) from error


def _read_pretrained(name: str, file: Path, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a file for timm, under the model's names if they all are among them."""
    if not file.is_file():
        raise ValueError(f"pretrained_cfg_overlay.file={file} does not exist")
    try:
        weights, _ = weights_in(read_file(file), file)
    except ValueError as error:
        jax = "; for weights of JAX add +model.pretrained_cfg_overlay.custom_load=true" if file.suffix == ".npz" else ""
        raise ValueError(f"the pretrained weights of {name} cannot be loaded: {error}{jax}") from error
    # Lightning and others keep the whole model as one part of theirs.
    while len({key.partition(".")[0] for key in weights}) == 1 and all("." in key for key in weights):
        weights = {key.partition(".")[2]: weight for key, weight in weights.items()}
    with torch.device("meta"):
        own = timm.create_model(name, **{key: options[key] for key in options if key != "pretrained_cfg_overlay"})
    # Or besides a loss, a metric or a second model.
    fitting, parts = without_prefix(weights, own.state_dict()), {key.partition(".")[0] for key in own.state_dict()}
    if not own.state_dict().keys() <= fitting.keys():
        return weights
    return {key: weight for key, weight in fitting.items() if key.partition(".")[0] in parts}


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


def _check_patches(model: nn.Module, img_size: int | Size) -> None:
    size, patch = to_2tuple(img_size), to_2tuple(getattr(getattr(model, "patch_embed", None), "patch_size", 1))
    if any(side % part for side, part in zip(size, patch, strict=True)):
        raise ValueError(
            f"images of {_pixels(size)} px do not divide into patches of {_pixels(patch)} px; "
            f"use data.img_size={_nearest(size, patch)}"
        )


def _nearest(size: Size, step: Size) -> str:
    """The multiple of `step` that is nearest to `size`, as ``data.img_size`` takes it."""
    height, width = (max(1, round(side / part)) * part for side, part in zip(size, step, strict=True))
    return str(height) if height == width and size[0] == size[1] else f"[{height},{width}]"


def _pixels(size: Size) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}×{size[1]}"


def check_stride(model: nn.Module, name: str, img_size: int | Size, in_chans: int = 3) -> None:
    """Raise ValueError if the model's stride does not divide `img_size` and an image of that size does not pass.

    The forward pass runs on the meta device and computes nothing. Most convolutional models round up and pass. Models
    without timm's `feature_info` are not checked.
    """
    stages, size = getattr(model, "feature_info", None), to_2tuple(img_size)
    if not isinstance(stages, list) or not stages or all(side % stages[-1]["reduction"] == 0 for side in size):
        return
    stride = stages[-1]["reduction"]
    meta = {key: t.to("meta") for key, t in [*model.named_parameters(), *model.named_buffers()]}
    dtype = next(model.parameters()).dtype
    training = [module for module in model.modules() if module.training]
    # In training mode, batch norm rejects a feature map of one position and one image.
    model.eval()
    try:
        with torch.no_grad():
            functional_call(model, meta, (torch.empty(1, in_chans, *size, device="meta", dtype=dtype),))
    except RuntimeError as error:
        raise ValueError(
            f"model {name} does not run on images of {_pixels(size)} px; use data.img_size="
            f"{_nearest(size, (stride, stride))}, or another multiple of its stride of {stride} px"
        ) from error
    finally:
        for module in training:
            module.training = True
