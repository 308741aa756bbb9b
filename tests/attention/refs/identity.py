"""No mixing."""

from torch import Tensor, nn


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """out = x."""
    return x.clone()
