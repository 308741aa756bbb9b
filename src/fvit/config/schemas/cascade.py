"""Schema of `fvit-cascade`."""

from fvit.config.schemas.eval import Evaluation


class Cascade(Evaluation):
    large: str
    tiny: str
