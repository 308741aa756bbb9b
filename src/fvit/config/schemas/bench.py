"""Schema of `fvit-bench`."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fvit.config.errors import did_you_mean
from fvit.config.schemas.fields import Positive, PositiveFloat, Strict
from fvit.config.schemas.train import Model

CANDIDATE_KEYS = ("attention", "model")
What = Literal["params", "macs", "latency", "throughput", "memory", "train"]
_ON_CUDA = {"precision": ["bf16"], "compile": [False, True], "batch": 128}
_ELSEWHERE = {"precision": ["float32"], "compile": [False], "batch": 4}


class CandidateConfig(Strict):
    """The part of a training configuration that is measured."""

    model: Model

    @model_validator(mode="after")
    def _weights_have_no_effect(self) -> "CandidateConfig":
        if self.model.match:
            raise ValueError(f"model.match is for training; here use match={self.model.match} to=MODEL")
        for key in ("pretrained", "init_from", "keep", "freeze"):
            if value := getattr(self.model, key):
                raise ValueError(f"model.{key}={value} has no effect on what a model costs; leave it out")
        return self


class Bench(Strict):
    candidates: list[str]
    res: Annotated[list[Positive | tuple[Positive, Positive]], Field(min_length=1)]
    what: Annotated[list[What], Field(min_length=1)]
    precision: Annotated[list[Literal["float32", "bf16"]], Field(min_length=1)]
    compile: Annotated[list[bool], Field(min_length=1)]
    match: Literal["params", "macs", "latency"] | None
    to: str | None
    match_by: Literal["width", "depth"]
    device: Literal["cpu", "cuda", "mps"]
    threads: Positive | None
    runs: Annotated[int, Field(ge=3)]
    seconds: PositiveFloat
    batch: Positive
    baseline: str
    output_dir: str
    quiet: bool = False

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_device_and_lists_of_one_value(cls, config: dict[str, Any]) -> dict[str, Any]:
        defaults = _ON_CUDA if config.get("device") == "cuda" else _ELSEWHERE
        config = config | {key: value for key, value in defaults.items() if config.get(key) is None}
        lists = {key: config[key] for key in ("res", "what", "precision", "compile") if key in config}
        return config | {key: value if isinstance(value, list) else [value] for key, value in lists.items()}

    @model_validator(mode="after")
    def _candidates_are_models(self) -> "Bench":
        if not self.candidates:
            raise ValueError("say what to measure: attention=additive,softmax model=vit_tiny, for example")
        for override in self.candidates:
            key = override.lstrip("+~").partition("=")[0]
            if not re.fullmatch(rf"({'|'.join(CANDIDATE_KEYS)})(\..+)?", key):
                raise ValueError(
                    f"fvit-bench has no key {key}{did_you_mean(key, [*CANDIDATE_KEYS, *type(self).model_fields])}; "
                    "attention, model and model.* choose what is measured, `fvit-bench --help` shows all other keys"
                )
        return self

    @model_validator(mode="after")
    def _match_is_complete(self) -> "Bench":
        if self.match is not None and self.to is None:
            raise ValueError(f"match={self.match} needs the model whose cost to match: to=vit_small, for example")
        if self.match is None and (self.to is not None or self.match_by != "width"):
            given = "match_by" if self.to is None else "to"
            raise ValueError(f"{given}={getattr(self, given)} has no effect without match=params, macs or latency")
        return self
