"""What the group `distillation` may hold."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fvit.config.schemas.fields import Count, NonNegative, Share, Strict


class Teacher(Strict):
    name: str | None
    path: str | None

    @model_validator(mode="after")
    def _something(self) -> "Teacher":
        if self.name is None and self.path is None:
            raise ValueError(
                "distillation needs a teacher: distillation.teacher.path=… (a run's folder or a checkpoint) or "
                "distillation.teacher.name=… (a model of timm)"
            )
        return self


class Weighted(Strict):
    weight: NonNegative
    schedule: Literal["constant", "linear", "cosine"]
    start: Share
    end: Share

    @model_validator(mode="after")
    def _some_time(self) -> "Weighted":
        if self.start >= self.end:
            raise ValueError(f"a loss of distillation from start={self.start:g} to end={self.end:g} has no effect")
        return self


class Soft(Weighted):
    temperature: Annotated[float, Field(gt=0)]


class AttentionMatch(Weighted):
    distance: Literal["mse", "cosine"]
    blocks: list[Count] | None


class FeatureMatch(AttentionMatch):
    place: Literal["final", "blocks"]

    @model_validator(mode="after")
    def _no_map_of_one(self) -> "FeatureMatch":
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
    def _some_loss(self) -> "Distillation":
        losses = ("soft", "hard", "attention", "features")
        if not any(getattr(self, name).weight for name in losses):
            raise ValueError(
                f"a teacher has no effect without a loss: set distillation.LOSS.weight of {', '.join(losses)}, "
                "or take distillation=none"
            )
        return self
