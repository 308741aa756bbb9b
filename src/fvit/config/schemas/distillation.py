"""Schema of the group `distillation`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fvit.config.schemas.fields import Count, Fraction, NonNegative, PositiveFloat, Strict


class Teacher(Strict):
    name: str | None
    path: str | None

    @model_validator(mode="after")
    def _is_given(self) -> "Teacher":
        if self.name is None and self.path is None:
            raise ValueError(
                "distillation needs a teacher: distillation.teacher.path=… (a run directory or a checkpoint) or "
                "distillation.teacher.name=… (a timm model)"
            )
        return self


class Weighted(Strict):
    weight: NonNegative
    schedule: Literal["constant", "linear", "cosine"]
    start: Fraction
    end: Fraction

    @model_validator(mode="after")
    def _has_an_effect(self) -> "Weighted":
        if self.start >= self.end:
            raise ValueError(
                f"a distillation loss from start={self.start:g} to end={self.end:g} has no effect; set start below end"
            )
        return self


class Soft(Weighted):
    temperature: PositiveFloat


class TokenMatch(Weighted):
    distance: Literal["mse", "cosine"]
    blocks: list[Count] | None


class AttentionMatch(TokenMatch):
    inputs: Literal["student", "teacher"] = "student"


class FeatureMatch(TokenMatch):
    place: Literal["final", "blocks"]

    @model_validator(mode="after")
    def _blocks_need_blocks(self) -> "FeatureMatch":
        if self.place == "final" and self.blocks is not None:
            raise ValueError("distillation.features.blocks has no effect with place=final; set place=blocks")
        return self


class Stage(Strict):
    length: PositiveFloat
    lr: PositiveFloat
    trains: Literal["attention", "all"]
    losses: Annotated[list[Literal["task", "soft", "hard", "attention", "features"]], Field(min_length=1)]


class Distillation(Strict):
    teacher: Teacher
    task: Weighted
    soft: Soft
    hard: Weighted
    attention: AttentionMatch
    features: FeatureMatch
    stages: Annotated[dict[str, Stage], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _has_a_loss(self) -> "Distillation":
        losses = ("soft", "hard", "attention", "features")
        if not any(getattr(self, name).weight for name in losses):
            raise ValueError(
                f"a teacher has no effect without a loss: set distillation.LOSS.weight of {', '.join(losses)}, "
                "or use distillation=none"
            )
        return self
