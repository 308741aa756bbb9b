"""Schema of `fvit-export`."""

from typing import Literal

from fvit.config.schemas.fields import Strict, Text


class Export(Strict):
    ckpt_path: Text
    format: Literal["onnx", "torch_export", "safetensors", "timm"]
    out: Text
    push: Text | None
    private: bool
    quiet: bool
