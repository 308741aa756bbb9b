"""Adaptive gradient clipping."""

from collections.abc import Iterator
from typing import Any

from lightning import Callback, LightningModule, Trainer
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.optim import Optimizer


class AdaptiveGradientClipping(Callback):
    """Clips the gradient of each unit to a share of the norm of its weights, as timm's ``--clip-mode agc``.

    Source: Brock et al., arXiv:2102.06171, equation 3. A unit is a row of a matrix or a filter of a convolution; a bias
    or a norm's scale is one unit. The head is left out, as in the paper. ``grad_norm`` is logged before.

    Args:
        clip_factor: the largest ratio of the two norms, λ.
        eps: the least norm that weights count with, so that those that start at zero can grow.

    Raises:
        ValueError: an argument is not positive, or Lightning clips as well.
    """

    def __init__(self, clip_factor: float = 0.01, eps: float = 1e-3) -> None:
        for name, value in (("clip_factor", clip_factor), ("eps", eps)):
            if value <= 0:
                raise ValueError(f"callbacks.agc.{name}={value} must be positive")
        self.clip_factor, self.eps = clip_factor, eps

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if trainer.gradient_clip_val:
            raise ValueError(
                f"callbacks.agc clips gradients, and so does trainer.gradient_clip_val={trainer.gradient_clip_val}: "
                "set trainer.gradient_clip_val=null, or leave callbacks.agc out"
            )

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        # Gradients are accumulated, averaged over ranks and unscaled by now.
        head = {id(parameter) for parameter in _head(module.model)}
        parameters = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in head]
        adaptive_clip_grad(parameters, self.clip_factor, self.eps)


def _head(model: nn.Module) -> Iterator[nn.Parameter]:
    heads: Any = model.get_classifier()
    for head in heads if isinstance(heads, tuple | list) else [heads]:
        yield from head.parameters()
