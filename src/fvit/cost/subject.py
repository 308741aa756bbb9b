"""A model under one set of conditions: the steps that are timed and watched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fvit.cost.timing import Step

_CPU = torch.device("cpu")
# Compiled versions of one function: of all models of a kind, sizes of batches, inference and training.
_VERSIONS = 1000


@dataclass(frozen=True)
class Conditions:
    """How a model is run.

    Attributes:
        res: side of the images in pixels.
        precision: float32, or bf16 by autocast.
        compiled: through torch.compile.
        device: where.
    """

    res: int
    precision: str = "float32"
    compiled: bool = False
    device: torch.device = _CPU

    @property
    def manner(self) -> str:
        """For people, where it is not float32 and eager."""
        return f" {self.precision}" * (self.precision != "float32") + " compiled" * self.compiled


@contextmanager
def compiling() -> Iterator[None]:
    """Inside, every compiled model runs compiled; what cannot be fails. Afterwards all that was compiled is dropped.

    All models of a class share the code of its forward pass, and torch compiles one piece of code 8 times at most: for
    whatever model or shape comes later, it would run eagerly from then on, and only log it.
    """
    from torch._dynamo import config  # takes a second, for which nothing else is to wait

    limits = {"recompile_limit": _VERSIONS, "accumulated_recompile_limit": _VERSIONS}
    with config.patch(**limits, fail_on_recompile_limit_hit=True):
        try:
            yield
        finally:
            torch.compiler.reset()


class Subject:
    """A model, ready to run on images of noise.

    Args:
        model: maps images [B, 3, H, W] to logits; is moved to the device and compiled in place, anew for each size of
            batch. Several such models are run inside `compiling`.
        conditions: how it is run.
    """

    def __init__(self, model: nn.Module, conditions: Conditions) -> None:
        self.model, self.conditions = model.to(conditions.device), conditions
        if conditions.compiled:
            self.model.compile(dynamic=False)

    def forward(self, batch: int) -> Step:
        """One batch in inference."""
        images = self._images(batch)

        def step() -> None:
            with torch.inference_mode(), self._autocast():
                self.model.eval()(images)

        return step

    def loss(self, batch: int) -> Callable[[], Tensor]:
        """The loss of one batch in training."""
        images = self._images(batch)

        def step() -> Tensor:
            with self._autocast():
                return self.model.train()(images).float().logsumexp(dim=1).mean()

        return step

    def backward(self, batch: int) -> Step:
        """Forward and backward, after which the gradients are dropped."""
        loss = self.loss(batch)

        def step() -> None:
            loss().backward()
            self.model.zero_grad()

        return step

    def train(self, batch: int) -> Step:
        """Forward, backward and a step of AdamW, whose rate is 0: weights stay as they are."""
        loss = self.loss(batch)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, weight_decay=0.0)

        def step() -> None:
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _images(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, self.conditions.res, self.conditions.res, generator=generator)
        return images.to(self.conditions.device)

    def _autocast(self) -> Any:
        if self.conditions.precision == "float32":
            return nullcontext()
        return torch.autocast(self.conditions.device.type, dtype=torch.bfloat16)
