"""A model as an ONNX file, which onnxruntime and others run without Python."""

import importlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

from fvit.models.export.subject import Subject


def write_onnx(subject: Subject, folder: Path) -> float:
    """Write model.onnx, for any number of images at once, and run it.

    Returns:
        the largest difference of its logits.

    Raises:
        ValueError: a package is missing, the model cannot be exported, or the file gives other logits.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(f"format=onnx needs {package}: pip install 'fvit[export]'") from error
    path = folder / "model.onnx"
    with torch.no_grad():
        try:
            torch.onnx.export(
                subject.model,
                (subject.images(2),),
                path,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter's own kinds are many, and private
            raise subject.refuse("ONNX", error.__cause__ or error) from error
    return subject.check(_runner(path))


def _runner(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(logits)

    return answer
