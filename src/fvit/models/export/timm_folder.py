"""A model as a folder that timm loads: ``timm.create_model("local-dir:FOLDER", pretrained=True)``."""

from pathlib import Path
from typing import Any

import timm
from timm.models import model_entrypoint, save_for_hf
from torch import nn

from fvit.models.build import build
from fvit.models.export.subject import Subject

_OF_NO_SOURCE = {"tag": "fvit", "license": None, "origin_url": None, "paper_name": None, "paper_ids": None}


def needs_fvit(subject: Subject, form: str) -> bool:
    """Whether timm loads the folder, ``safetensors`` or ``timm``, only once fvit is imported."""
    return form == "safetensors" and (subject.arguments["attention"] is not None or not _is_timm_s(subject))


def write_exchanged(subject: Subject, folder: Path) -> float:
    """Write model.safetensors and config.json, in which a model with exchanged attention is one called ``exchanged``.

    Returns:
        the largest difference of the logits of what timm loads.

    Raises:
        ValueError: timm loads another model, or its config cannot hold an argument.
    """
    options = subject.arguments
    if options["attention"] is None:
        return _write(subject, subject.model, folder, _plain_name(subject), {})
    told = {key: options[key] for key in ("attention", "blocks") if options.get(key) is not None}
    return _write(subject, subject.model, folder, "exchanged", {"host": _plain_name(subject), **told})


def write_native(subject: Subject, folder: Path) -> float:
    """Write model.safetensors and config.json of a model that timm has by itself.

    Returns:
        the largest difference of the logits of what timm loads.

    Raises:
        ValueError: timm has no such model.
    """
    options = subject.arguments
    needed = "; format=safetensors writes what timm loads once fvit is imported"
    if not _is_timm_s(subject):
        raise ValueError(f"format=timm is for models of timm's, and {options['name']} is one of fvit's{needed}")
    native = build(**{**options, "attention": None, "blocks": None})
    try:
        native.load_state_dict(subject.original.state_dict())
        subject.check(native.eval())
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"format=timm is for attention that timm has by itself, native or softmax in a plain ViT, "
            f"and not for {subject}{needed}"
        ) from error
    return _write(subject, native, folder, _plain_name(subject), {})


def _is_timm_s(subject: Subject) -> bool:
    return model_entrypoint(_plain_name(subject)).__module__.startswith("timm.")


def _plain_name(subject: Subject) -> str:
    """timm's name of the model, without that of weights behind it."""
    return subject.arguments["name"].split(".")[0]


def _write(subject: Subject, model: nn.Module, folder: Path, architecture: str, args: dict[str, Any]) -> float:
    side = subject.img_size
    # The host's own weights, their name and their licence have nothing to do with these.
    described = {"label_names": subject.classes, "pretrained_cfg": {**_OF_NO_SOURCE, "architecture": architecture}}
    data = {**subject.preprocessing, "input_size": (3, side, side)}
    save_for_hf(model, folder, described, args, safe_serialization=True, data_config=data)
    return subject.check(timm.create_model(f"local-dir:{folder}", pretrained=True).eval())
