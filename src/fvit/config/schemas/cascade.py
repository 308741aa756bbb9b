"""Schema of `fvit-cascade`."""

from typing import Any

from pydantic import model_validator

from fvit.config.schemas.eval import EvalData
from fvit.config.schemas.fields import Loggers
from fvit.config.schemas.hardware import Hardware


class Cascade(Hardware):
    output_dir: str
    large: str
    tiny: str
    quiet: bool
    data: EvalData
    logger: Loggers
    callbacks: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _no_gradients(self) -> "Cascade":
        if self.grad_checkpointing:
            raise ValueError("grad_checkpointing=true has no effect in evaluation; set it to false")
        return self
