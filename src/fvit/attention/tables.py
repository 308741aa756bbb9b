"""`LayoutTables`: tensors that follow from the layout alone, such as the angles of a rotation, made once for it."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from fvit.attention.ops import Size


class LayoutTables(nn.Module):
    """Base class of the parts of mechanisms that need tensors of the layout, whatever the input.

    `Mechanism.set_layout` passes the layout on. The tables are buffers outside the state dict, in float32 at least.
    They are computed anew, not converted, whenever the module is moved or gets another dtype, so they are as exact as
    that dtype allows and also exist after `to_empty`.

    Args:
        factory: device and dtype of the mechanism's parameters.
    """

    def __init__(self, **factory: Any) -> None:
        super().__init__()
        self.grid_size: Size | None = None
        self.num_prefix_tokens = 0
        self.register_buffer("like", torch.empty(0, **factory), persistent=False)

    def tables(self, grid_size: Size, num_prefix_tokens: int, **factory: Any) -> dict[str, Tensor | None]:
        """The tables by name, made with the `factory` arguments; None for one that this layout does not need."""
        raise NotImplementedError(f"{type(self).__name__} must implement tables")

    def set_layout(self, grid_size: Size, num_prefix_tokens: int, block_index: int = 0) -> None:
        """As `Mechanism.set_layout`."""
        self.grid_size, self.num_prefix_tokens = grid_size, num_prefix_tokens
        self._fill()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self.grid_size is not None:
            self._fill()
        return self

    @torch.no_grad()
    @torch.inference_mode(False)  # training could not use what inference mode has made
    def _fill(self) -> None:
        factory = dict(device=self.like.device, dtype=torch.promote_types(self.like.dtype, torch.float32))
        for name, table in self.tables(self.grid_size, self.num_prefix_tokens, **factory).items():
            self.register_buffer(name, table, persistent=False)


def pooling_cells(count: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """1 where a position is in a cell of torch's adaptive pooling, [count, size].

    Cell i is of the positions ⌊i·size/count⌋ to ⌈(i+1)·size/count⌉.
    """
    index = torch.arange(count, device=device).unsqueeze(1)
    position = torch.arange(size, device=device)
    return ((position >= index * size // count) & (position < -(-(index + 1) * size // count))).to(dtype)
