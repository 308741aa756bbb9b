"""Schema of `fvit-predict`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from fvit.config.schemas.fields import Count, Positive, Strict, Text

FORMATS = (".csv", ".json", ".jsonl")


def _known_format(out: str) -> str:
    if Path(out).suffix not in FORMATS:
        raise ValueError(f"out={out} must end in {', '.join(FORMATS)}, which chooses the format")
    return out


class Predict(Strict):
    ckpt_path: Text
    images: Text
    out: Annotated[str, AfterValidator(_known_format)] | None
    maps: bool
    output_dir: Text
    batch_size: Positive
    num_workers: Count | None
    device: Literal["cpu", "cuda", "mps"]
    quiet: bool
