"""What the configuration of `fvit-export` may hold."""

from typing import Literal

from fvit.run.fields import Strict


class Export(Strict):
    ckpt_path: str
    format: Literal["onnx", "torch_export", "safetensors", "timm"]
    out: str
    quiet: bool
