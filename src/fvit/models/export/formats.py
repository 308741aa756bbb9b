"""The formats of `fvit-export`: ONNX, torch.export, and folders for ``timm.create_model("local-dir:FOLDER")``."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import model_entrypoint, save_for_hf
from torch import Tensor, nn
from torch.export import Dim

from fvit.models.build import build
from fvit.models.export.model import ExportModel

_NO_SOURCE = {"tag": "fvit", "license": None, "origin_url": None, "paper_name": None, "paper_ids": None}


def write_onnx(exported: ExportModel, folder: Path) -> float:
    """Write model.onnx with a dynamic batch size, and run it with onnxruntime."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(f"format=onnx needs {package}: pip install 'fvit[export]'") from error
    path = folder / "model.onnx"
    with torch.no_grad():
        try:
            torch.onnx.export(
                exported.model,
                (exported.images(2),),
                path,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many private classes
            raise exported.export_error("ONNX", error.__cause__ or error) from error
    return exported.check(_onnx_session(path))


def _onnx_session(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


def write_program(exported: ExportModel, folder: Path) -> float:
    """Write model.pt2, a torch.export program with a dynamic batch size, and run it."""
    path = folder / "model.pt2"
    with torch.no_grad():
        try:
            program = torch.export.export(
                exported.model, (exported.images(2),), dynamic_shapes=({0: Dim("batch")},), strict=False
            )
        except Exception as error:  # the exporter raises many private classes
            raise exported.export_error("a program", error) from error
    torch.export.save(program, path)
    return exported.check(torch.export.load(path).module())


def write_safetensors(exported: ExportModel, folder: Path) -> float:
    """Write model.safetensors and config.json, with the architecture ``exchanged`` for exchanged attention."""
    options = exported.arguments
    if options["attention"] is None:
        return _write_timm_folder(exported, exported.model, folder, _base_name(exported), {})
    arguments = {key: options[key] for key in ("attention", "blocks") if options.get(key) is not None}
    arguments["host"] = _base_name(exported)
    return _write_timm_folder(exported, exported.model, folder, "exchanged", arguments)


def write_timm(exported: ExportModel, folder: Path) -> float:
    """Write model.safetensors and config.json of a model that timm can build without fvit."""
    options = exported.arguments
    instead = "; format=safetensors writes a folder that timm loads once fvit.models is imported"
    if not _is_from_timm(exported):
        raise ValueError(f"format=timm is for timm's models, and {options['name']} is one of fvit's{instead}")
    native = build(**{**options, "attention": None, "blocks": None})
    try:
        native.load_state_dict(exported.original.state_dict())
        exported.check(native.eval())
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"format=timm is for attention that timm has, native or softmax in a plain ViT, and not for "
            f"{exported}{instead}"
        ) from error
    return _write_timm_folder(exported, native, folder, _base_name(exported), {})


def needs_fvit(exported: ExportModel, form: str) -> bool:
    """Whether timm loads the folder, ``safetensors`` or ``timm``, only after ``import fvit.models``."""
    return form == "safetensors" and (exported.arguments["attention"] is not None or not _is_from_timm(exported))


def _is_from_timm(exported: ExportModel) -> bool:
    return model_entrypoint(_base_name(exported)).__module__.startswith("timm.")


def _base_name(exported: ExportModel) -> str:
    """timm's name without the tag of pretrained weights."""
    return exported.arguments["name"].split(".")[0]


def _write_timm_folder(
    exported: ExportModel, model: nn.Module, folder: Path, architecture: str, arguments: dict[str, Any]
) -> float:
    # Without the source and license of the host's published weights.
    config = {"label_names": exported.classes, "pretrained_cfg": {**_NO_SOURCE, "architecture": architecture}}
    data = {**exported.preprocessing, "input_size": (3, *exported.img_size)}
    save_for_hf(model, folder, config, arguments, safe_serialization=True, data_config=data)
    return exported.check(timm.create_model(f"local-dir:{folder}", pretrained=True).eval())


FORMATS: dict[str, Callable[[ExportModel, Path], float]] = {
    "onnx": write_onnx,
    "torch_export": write_program,
    "safetensors": write_safetensors,
    "timm": write_timm,
}
"""By name: writes a model into a folder and returns the largest relative difference of its logits.

Raises ValueError if a package is missing, the model cannot be exported to the format, or the logits disagree.
"""
