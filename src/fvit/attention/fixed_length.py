"""Mechanisms whose parameters are shaped by the tokens: how they get their size, and how they change it."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism, Size


class Layout(NamedTuple):
    """How tokens lie: prefix tokens first, then the patches, row by row."""

    rows: int
    columns: int
    prefix: int

    @property
    def tokens(self) -> int:
        """All tokens, prefix tokens included."""
        return self.prefix + self.rows * self.columns


class FixedLength(Mechanism):
    """Base of the mechanisms that have parameters shaped by the number of tokens N.

    timm builds attention without telling N, so the constructor makes these parameters for one token. The first
    `set_layout` gives them their size and initialises them; each later one resamples what was learned, as ViTs do with
    their position embeddings. So does loading weights of another layout: it is saved with them. An optimizer is built
    after the layout is told, since its own state does not follow.

    A subclass names the parameters (or buffers) in `token_axes`. Where an axis runs over rows or columns alone, it
    says so in `part`; where it runs over anything else, it writes `shape` and `resample`.
    """

    fixed_length: ClassVar[bool] = True
    token_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """The axes of each tensor that run over the tokens."""
    summed_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Those of them over which `forward` sums: there the sum is kept, and not the size of the weights."""

    layout: Layout | None = None

    def set_layout(self, grid_size: Size, num_prefix_tokens: int, block_index: int = 0) -> None:
        """As `Mechanism.set_layout`; shapes the parameters, or resamples them if they have their shape already."""
        new = Layout(*grid_size, num_prefix_tokens)
        if new != self.layout:
            # All are made before the first is put in: a refusal leaves the module as it was.
            tensors = {name: self._fitted(name, new) for name in self.token_axes}
            first, self.layout = self.layout is None, new
            for name, data in tensors.items():
                self._put(name, data)
            if first:
                self.init_weights()
        super().set_layout(grid_size, num_prefix_tokens, block_index)

    def init_weights(self) -> None:
        """Draw what the tokens shape as timm draws Linears: truncated normal, σ = 0.02, and zero for biases."""
        for name in self.token_axes:
            if name.endswith("bias"):
                nn.init.zeros_(attrgetter(name)(self))
            else:
                nn.init.trunc_normal_(attrgetter(name)(self), std=0.02)

    def part(self, name: str, layout: Layout) -> Layout:
        """What of a layout the axes of one of the tensors in `token_axes` run over: all of it, if not overridden."""
        return layout

    def shape(self, name: str, layout: Layout) -> tuple[int, ...]:
        """The shape of one of the tensors in `token_axes` under a layout."""
        shape = list(attrgetter(name)(self).shape)
        for axis in self.token_axes[name]:
            shape[axis] = self.part(name, layout).tokens
        return tuple(shape)

    def resample(self, name: str, tensor: Tensor, old: Layout, new: Layout) -> Tensor:
        """One of the tensors in `token_axes`, brought from one layout to another."""
        old, new = self.part(name, old), self.part(name, new)
        for axis in self.token_axes[name]:
            tensor = resample_tokens(tensor, axis, old, new, keep_sum=axis in self.summed_axes.get(name, ()))
        return tensor

    def check_length(self, x: Tensor) -> None:
        """Raise ValueError unless tokens x [..., N, C] are as many as the layout has."""
        if self.layout is None or x.shape[-2] != self.layout.tokens:
            told = "no layout" if self.layout is None else f"{self.layout.tokens} tokens"
            raise ValueError(
                f"{type(self).__name__} has weights for each token and got {x.shape[-2]} tokens where set_layout told "
                f"of {told}; call set_layout, or set_input_size of the model, with the new grid"
            )

    def _fitted(self, name: str, layout: Layout) -> Tensor:
        """The values of a tensor under a layout: resampled if it has one already, and not yet initialised if not."""
        data = attrgetter(name)(self).data
        if self.layout is None:
            return data.new_empty(self.shape(name, layout))
        return self.resample(name, data, self.layout, layout)

    def _put(self, name: str, data: Tensor) -> None:
        """Give a tensor values of another shape; it stays the same Parameter, and a layer shows its new width."""
        tensor = attrgetter(name)(self)
        tensor.data, tensor.grad = data, None
        owner = self.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, nn.Linear):
            owner.out_features, owner.in_features = owner.weight.shape

    def get_extra_state(self) -> Tensor:
        """The layout, saved with the weights: rows, columns, prefix tokens; zeros before it is told."""
        return torch.tensor(self.layout or (0, 0, 0))

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing: `_load_from_state_dict` has brought the weights to this module's layout."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}_extra_state")
        if saved is not None and any(saved.tolist()):
            old = Layout(*saved.tolist())
            if self.layout is None:
                self.set_layout((old.rows, old.columns), old.prefix, self.block_index)
            elif old != self.layout:
                # The dict is load_state_dict's own copy, which the layers inside this module read next.
                for name in self.token_axes:
                    if (tensor := state_dict.get(prefix + name)) is not None:
                        state_dict[prefix + name] = self.resample(name, tensor, old, self.layout)
        super()._load_from_state_dict(state_dict, prefix, *args)


def resample_tokens(x: Tensor, axis: int, old: Layout, new: Layout, keep_sum: bool = False) -> Tensor:
    """Bring one axis of a tensor from the tokens of one layout to those of another.

    Patches are resampled bicubically over their grid, with antialiasing; prefix tokens stay as they are.

    Args:
        x: any shape, with ``old.tokens`` along `axis`.
        axis: which axis.
        old: the layout that `x` has.
        new: the layout that is wanted.
        keep_sum: keep the sum over the patches in place of the size of each element.

    Raises:
        ValueError: the new layout has more prefix tokens than the old one, and nothing to make them from.
    """
    if new.prefix > old.prefix:
        raise ValueError(
            f"weights learned with {old.prefix} prefix tokens cannot serve {new.prefix}; "
            "build the model with as many class and register tokens as the checkpoint has"
        )
    x = x.movedim(axis, -1)
    prefix, patches = x[..., : new.prefix], x[..., old.prefix :]
    if (old.rows, old.columns) != (new.rows, new.columns):
        if old.columns == new.columns == 1:
            # A line, for which torch 2.14 gives the first value everywhere if it stands, and is right if it lies.
            old, new = Layout(1, old.rows, old.prefix), Layout(1, new.rows, new.prefix)
        images = patches.reshape(-1, 1, old.rows, old.columns).to(torch.promote_types(x.dtype, torch.float32))
        images = F.interpolate(images, size=(new.rows, new.columns), mode="bicubic", antialias=True)
        if keep_sum:
            images = images * (old.rows * old.columns / (new.rows * new.columns))
        patches = images.reshape(*patches.shape[:-1], new.rows * new.columns).to(x.dtype)
    return torch.cat([prefix, patches], dim=-1).movedim(-1, axis).contiguous()
