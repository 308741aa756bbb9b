"""Schema of the group `distillation`."""

from typing import Literal

from pydantic import model_validator

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


class AttentionMatch(Weighted):
    distance: Literal["mse", "cosine"]
    blocks: list[Count] | None


class FeatureMatch(AttentionMatch):
    place: Literal["final", "blocks"]

    @model_validator(mode="after")
    def _blocks_need_blocks(self) -> "FeatureMatch":
        if self.place == "final" and self.blocks is not None:
            raise ValueError("distillation.features.blocks has no effect with place=final; set place=blocks")
        return self


class Distillation(Strict):
    teacher: Teacher
    task: Weighted
    soft: Soft
    hard: Weighted
    attention: AttentionMatch
    features: FeatureMatch

    @model_validator(mode="after")
    def _has_a_loss(self) -> "Distillation":
        losses = ("soft", "hard", "attention", "features")
        if not any(getattr(self, name).weight for name in losses):
            raise ValueError(
                f"a teacher has no effect without a loss: set distillation.LOSS.weight of {', '.join(losses)}, "
                "or use distillation=none"
            )
        return self
