"""Schema of `fvit-predict`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from fvit.config.schemas.fields import Count, Positive, Strict, Text

_SUFFIXES = (".csv", ".json", ".jsonl")


def _known_suffix(out: str) -> str:
    if Path(out).suffix not in _SUFFIXES:
        raise ValueError(f"out={out} must end in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}")
    return out


class Predict(Strict):
    ckpt_path: Text
    images: Text
    out: Annotated[str, AfterValidator(_known_suffix)] | None
    maps: bool
    output_dir: Text
    batch_size: Positive
    num_workers: Count | None
    device: Literal["cpu", "cuda", "mps"]
    precision: Literal["float32", "bf16"]
    quiet: bool
