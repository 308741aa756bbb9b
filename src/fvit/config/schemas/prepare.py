"""Schema of `fvit-prepare`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fvit.config.schemas.fields import Count, Open, Positive, Strict

VERBS = {"out": "write shards", "verify": "verify shards", "bench": "measure the loader"}


class PrepareData(Open):
    """A source and its options, which the source checks; those of the training loader have no effect."""

    name: str


class Prepare(Strict):
    data: PrepareData
    out: str | None
    verify: str | None
    bench: str | None
    rate: Positive | None
    resize: Literal["none", 256, 320, 512]
    quality: Annotated[int, Field(ge=1, le=100)]
    shard_size: Positive
    workers: Count | None
    bad: Literal["skip", "fatal"]
    quiet: bool

    @model_validator(mode="after")
    def _one_verb(self) -> "Prepare":
        given = [verb for verb in VERBS if getattr(self, verb) is not None]
        if len(given) != 1:
            verbs = ", ".join(f"{verb}=DIR to {what}" for verb, what in VERBS.items())
            raise ValueError(f"{' and '.join(given)} exclude each other: {verbs}" if given else f"give one of {verbs}")
        if self.rate is not None and self.bench is None:
            raise ValueError("rate only has an effect with bench=DIR")
        return self
