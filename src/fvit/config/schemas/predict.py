"""What the configuration of `fvit-predict` may hold."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from fvit.config.schemas.fields import Count, Positive, Strict, Text

FORMS = (".csv", ".json", ".jsonl")


def _known_form(out: str) -> str:
    if Path(out).suffix not in FORMS:
        raise ValueError(f"out={out} must end in {', '.join(FORMS)}, which says how it is written")
    return out


class Predict(Strict):
    ckpt_path: Text
    images: Text
    out: Annotated[str, AfterValidator(_known_form)] | None
    maps: bool
    output_dir: Text
    batch_size: Positive
    num_workers: Count | None
    device: Literal["cpu", "cuda", "mps"]
    quiet: bool
