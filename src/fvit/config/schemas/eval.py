"""Schemas of `fvit-eval` and `fvit-cascade`."""

from typing import Any, Literal

from pydantic import model_validator

from fvit.config.schemas.fields import (
    Augmentation,
    Count,
    Decoder,
    Fraction,
    Loggers,
    OneModel,
    Positive,
    PositiveFraction,
    Strict,
)
from fvit.config.schemas.hardware import Hardware


class EvalData(Strict):
    name: str | None
    root: str | None
    val_split: Fraction | None
    test_split: Fraction | None
    split_seed: Count | None
    eval_batch_size: Positive | None
    num_workers: Count | Literal["auto"] | None
    prefetch_factor: Positive | None = None
    pin_memory: bool
    crop_pct: PositiveFraction | None
    decoder: Decoder | None


class Evaluation(Hardware):
    """The keys of fvit-eval and fvit-cascade."""

    output_dir: str
    quiet: bool
    data: EvalData
    logger: Loggers
    callbacks: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _no_gradients(self) -> "Evaluation":
        if self.grad_checkpointing:
            raise ValueError("grad_checkpointing=true has no effect in evaluation; set it to false")
        return self


class SizedData(EvalData):
    img_size: Positive | None


class Eval(OneModel, Evaluation):
    data: SizedData
    split: Literal["val", "test"]
    tta: Augmentation | None
    tiny: str | None


class Cascade(Evaluation):
    large: str
    tiny: str
