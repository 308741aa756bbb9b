"""Schemas of `fvit-eval` and `fvit-cascade`."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from fvit.config.schemas.fields import (
    Augmentation,
    Count,
    Decoder,
    Fraction,
    ImgSize,
    Loggers,
    OneModel,
    Positive,
    PositiveFraction,
    Strict,
    Text,
)
from fvit.config.schemas.hardware import Hardware
from fvit.config.schemas.probe import Knn, Linear


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
    img_size: ImgSize | None


def _template(text: str) -> str:
    if text.count("{}") != 1 or any(brace in text.replace("{}", "") for brace in "{}"):
        raise ValueError(f"templates: {text!r} must contain {{}} once, for the name of a class: 'a photo of a {{}}.'")
    return text


class Eval(OneModel, Evaluation):
    data: SizedData
    zero_shot: Text | None
    templates: Annotated[list[Annotated[str, AfterValidator(_template)]], Field(min_length=1)] | None
    split: Literal["val", "test"]
    tta: Augmentation | None
    tiny: str | None
    probe: Annotated[Knn | Linear, Field(discriminator="name")] | None

    def check_one_model(self) -> None:
        """With zero_shot, pretrained names the weights of that model."""
        if self.zero_shot is None:
            super().check_one_model()
            if self.templates is not None:
                raise ValueError("templates has no effect without zero_shot=MODEL: leave it out")
            return
        idle = {"ckpt_path": self.ckpt_path, "probe": self.probe and self.probe.name}
        if ":" in self.zero_shot:  # a hub or a folder, which has its weights
            idle["pretrained"] = self.pretrained
        for key, value in idle.items():
            if value is not None:
                raise ValueError(f"{key}={value} has no effect with zero_shot={self.zero_shot}: leave one of them out")

    @model_validator(mode="after")
    def _probe_runs_plainly(self) -> "Eval":
        if self.probe is None:
            return self
        if self.trainer.world_size != 1:
            raise ValueError(f"probe={self.probe.name} runs on one device: use hardware=cpu, or gpu, trainer.devices=1")
        for key, value in (("compile", self.compile), ("tta", self.tta), ("split", self.split == "test")):
            if value:
                raise ValueError(f"{key} has no effect with probe={self.probe.name}: leave it out")
        return self


class Cascade(Evaluation):
    large: str
    tiny: str
