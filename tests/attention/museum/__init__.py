"""What re-implementations were seen to get wrong, a file a mechanism.

Each file writes its mechanism once more, right, in overridable steps; an exhibit is a subclass with one step wrong.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fvit.attention import Mechanism

Shows = Literal["output", "mask", "gradient"]


@dataclass(frozen=True)
class Exhibit:
    """A wrong variant under certain options."""

    fault: type[Mechanism]
    options: Mapping[str, Any]
    shows: Shows

    @property
    def id(self) -> str:
        """The class, which names the fault, and the options, for pytest."""
        return "-".join([self.fault.__name__, *map(str, self.options.values())])


EXHIBITS: list[Exhibit] = []


def exhibit(shows: Shows = "output") -> Callable[[type[Mechanism]], type[Mechanism]]:
    """Class decorator: exhibit a wrong variant, once for each set in its `options`.

    `shows` says where the fault comes to light: in any output, only under a mask, only in the gradients.
    """

    def add(fault: type[Mechanism]) -> type[Mechanism]:
        EXHIBITS.extend(Exhibit(fault, options, shows) for options in fault.options)
        return fault

    return add


class OnHeads:
    """Mixin for what lies between `qkv` and `proj`: `mix` gets q, k, v [B, H, N, d] and keep [B, 1, N, 1]."""

    options: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]."""
        q, k, v = (self.split(t) for t in self.qkv(x).chunk(3, dim=-1))
        everything = torch.ones(len(x), 1, x.shape[1], 1, dtype=torch.bool)
        keep = everything if attn_mask is None else attn_mask.transpose(-2, -1)
        return self.proj(self.merge_heads(self.mix(q, k, v, keep)))

    def split(self, rows: Tensor) -> Tensor:
        """[B, N, C] -> [B, H, N, d]."""
        return self.split_heads(rows)
