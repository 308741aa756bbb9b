"""Models in files that others read: each is written, read again, and held against the model that it was made of."""

from fvit.models.export.onnx import write_onnx
from fvit.models.export.program import write_program
from fvit.models.export.subject import Subject
from fvit.models.export.timm_folder import write_exchanged, write_native

FORMATS = {
    "onnx": write_onnx,
    "torch_export": write_program,
    "safetensors": write_exchanged,
    "timm": write_native,
}
"""By name: what writes a `Subject` into a folder, and returns the largest difference of the logits it then gives."""

__all__ = ["FORMATS", "Subject"]
