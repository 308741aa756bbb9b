"""Start a model from the weights of another one."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Inheritance:
    """What became of the weights.

    Attributes:
        taken: names of the model's weights that were given.
        fresh: names of those that stay as they were initialised.
        left: names of given weights that the model has no place for.
    """

    taken: list[str]
    fresh: list[str]
    left: list[str]

    def __str__(self) -> str:
        text = f"{len(self.taken)} of {len(self.taken) + len(self.fresh)} weights taken"
        if self.fresh:
            text += f"; initialised: {_shorten(self.fresh)}"
        return text + (f"; no place for: {_shorten(self.left)}" if self.left else "")


def inherit(model: nn.Module, weights: Mapping[str, Tensor]) -> Inheritance:
    """Copy into `model`, in place, every weight that fits by name and shape.

    Raises:
        ValueError: none fits.
    """
    own = model.state_dict()
    fitting = {name: weight for name, weight in weights.items() if name in own and own[name].shape == weight.shape}
    if not fitting:
        raise ValueError(
            f"none of the {len(weights)} weights to begin with fits the model by name and shape; "
            f"there is {_shorten(weights)}, and the model has {_shorten(own)}"
        )
    model.load_state_dict(fitting, strict=False)
    return Inheritance(
        taken=[name for name in own if name in fitting],
        fresh=[name for name in own if name not in fitting],
        left=[name for name in weights if name not in fitting],
    )


def _shorten(names: Iterable[str]) -> str:
    """Names with their numbers left out, each once: blocks.*.attn.q.weight."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", name) for name in names))
