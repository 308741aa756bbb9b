"""Schema of the group `probe`."""

from typing import Annotated, Literal

from pydantic import Field

from fvit.config.schemas.fields import Positive, PositiveFloat, Strict


class Probe(Strict):
    layer: int | None
    pool: Literal["token", "avg"] | None


class Knn(Probe):
    name: Literal["knn"]
    k: Positive
    temperature: PositiveFloat


class Linear(Probe):
    name: Literal["linear"]
    C: Annotated[list[PositiveFloat], Field(min_length=1)]
    max_iter: Positive
