"""What the configuration of `fvit-export` may hold."""

from typing import Literal

from fvit.config.schemas.fields import Strict, Text


class Export(Strict):
    ckpt_path: Text
    format: Literal["onnx", "torch_export", "safetensors", "timm"]
    out: Text
    quiet: bool
