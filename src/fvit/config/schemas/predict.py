"""Schema of `fvit-predict`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from fvit.config.schemas.fields import Augmentation, Count, OneModel, Positive, Text

_SUFFIXES = (".csv", ".json", ".jsonl")


def _known_suffix(out: str) -> str:
    if Path(out).suffix not in _SUFFIXES:
        raise ValueError(f"out={out} must end in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}")
    return out


class Predict(OneModel):
    images: Text
    out: Annotated[str, AfterValidator(_known_suffix)] | None
    maps: bool
    tta: Augmentation | None
    output_dir: Text
    batch_size: Positive
    num_workers: Count | None
    device: Literal["cpu", "cuda", "mps"]
    precision: Literal["float32", "bf16"]
    quiet: bool

    @model_validator(mode="after")
    def _maps_of_one_view(self) -> "Predict":
        if self.maps and self.tta is not None:
            raise ValueError(f"maps=true draws one view of an image; leave tta={self.tta} out")
        return self
