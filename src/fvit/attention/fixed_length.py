"""`FixedLength`: mechanisms with parameters shaped by the number of tokens, and how those are resized."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism, Size


class TokenLayout(NamedTuple):
    """Prefix tokens first, then the patches of a grid, row by row."""

    rows: int
    columns: int
    prefix: int

    @property
    def tokens(self) -> int:
        return self.prefix + self.rows * self.columns


class FixedLength(Mechanism):
    """Base class of the mechanisms with parameters shaped by the number of tokens N.

    timm does not pass N to attention, so the constructor makes these parameters for one token. The first `set_layout`
    sizes and initialises them; each later one resamples the learned values, as ViTs do with position embeddings. So
    does loading weights saved with another layout. Build the optimizer after `set_layout`: its state is not resampled.

    A subclass lists its parameters (or buffers) in `token_axes`. For an axis that runs over rows or columns only it
    overrides `part`; for any other axis, `shape` and `resample`.
    """

    fixed_length: ClassVar[bool] = True
    token_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Per tensor, the axes that run over the tokens."""
    summed_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Those of them over which `forward` sums: resampling preserves the sum over such an axis, not the values."""

    layout: TokenLayout | None = None

    def set_layout(self, grid_size: Size, num_prefix_tokens: int, block_index: int = 0) -> None:
        new = TokenLayout(*grid_size, num_prefix_tokens)
        if new != self.layout:
            # All are computed before the first is replaced, so an error leaves the module unchanged.
            tensors = {name: self._fitted(name, new) for name in self.token_axes}
            first, self.layout = self.layout is None, new
            for name, data in tensors.items():
                self._put(name, data)
            if first:
                self.init_weights()
        super().set_layout(grid_size, num_prefix_tokens, block_index)

    def init_weights(self) -> None:
        """As timm initialises Linears: truncated normal with σ = 0.02, and zero for biases."""
        for name in self.token_axes:
            if name.endswith("bias"):
                nn.init.zeros_(attrgetter(name)(self))
            else:
                nn.init.trunc_normal_(attrgetter(name)(self), std=0.02)

    def part(self, name: str, layout: TokenLayout) -> TokenLayout:
        """The part of the layout that the token axes of tensor `name` run over; all of it by default."""
        return layout

    def shape(self, name: str, layout: TokenLayout) -> tuple[int, ...]:
        """Shape of tensor `name` under a layout."""
        shape = list(attrgetter(name)(self).shape)
        for axis in self.token_axes[name]:
            shape[axis] = self.part(name, layout).tokens
        return tuple(shape)

    def resample(self, name: str, tensor: Tensor, old: TokenLayout, new: TokenLayout) -> Tensor:
        """Tensor `name` resampled from one layout to another."""
        old, new = self.part(name, old), self.part(name, new)
        for axis in self.token_axes[name]:
            tensor = resample_tokens(tensor, axis, old, new, keep_sum=axis in self.summed_axes.get(name, ()))
        return tensor

    def check_length(self, x: Tensor) -> None:
        """Raise ValueError unless x [..., N, C] has as many tokens as the layout."""
        if self.layout is None or x.shape[-2] != self.layout.tokens:
            expected = "no layout is set" if self.layout is None else f"the layout has {self.layout.tokens}"
            raise ValueError(
                f"{type(self).__name__} has weights for each token and got {x.shape[-2]} tokens, but {expected}; "
                "call set_layout, or the model's set_input_size, with the new grid"
            )

    def _fitted(self, name: str, layout: TokenLayout) -> Tensor:
        """Values of tensor `name` under a layout: resampled, or uninitialised if there was no layout before."""
        data = attrgetter(name)(self).data
        if self.layout is None:
            return data.new_empty(self.shape(name, layout))
        return self.resample(name, data, self.layout, layout)

    def _put(self, name: str, data: Tensor) -> None:
        """Replace the values of a parameter by those of another shape, in place, and update its layer's width."""
        tensor = attrgetter(name)(self)
        tensor.data, tensor.grad = data, None
        owner = self.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, nn.Linear):
            owner.out_features, owner.in_features = owner.weight.shape

    def get_extra_state(self) -> Tensor:
        """The layout, saved with the weights: rows, columns, prefix tokens; zeros if not set."""
        return torch.tensor(self.layout or (0, 0, 0))

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to do: `_load_from_state_dict` has resampled the weights to this module's layout."""

    def fit_weights(self, weights: dict[str, Any], prefix: str) -> None:
        """Resample in place the weights of this module in a state dict, if they were saved with another layout."""
        saved = weights.get(f"{prefix}_extra_state")
        if saved is None or not any(saved.tolist()):
            return
        old = TokenLayout(*saved.tolist())
        if self.layout is None:
            self.set_layout((old.rows, old.columns), old.prefix, self.block_index)
        elif old != self.layout:
            for name in self.token_axes:
                if (tensor := weights.get(prefix + name)) is not None:
                    weights[prefix + name] = self.resample(name, tensor, old, self.layout)
            weights[f"{prefix}_extra_state"] = self.get_extra_state()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The dict is load_state_dict's own copy, from which the submodules load next.
        self.fit_weights(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def resample_tokens(x: Tensor, axis: int, old: TokenLayout, new: TokenLayout, keep_sum: bool = False) -> Tensor:
    """Resample one axis of a tensor, of size ``old.tokens``, to the tokens of another layout.

    Patches are resampled bicubically with antialiasing, over their grid; prefix tokens are copied. With `keep_sum` the
    sum over the patches is preserved instead of the values.

    Raises:
        ValueError: the new layout has more prefix tokens than the old one.
    """
    if new.prefix > old.prefix:
        raise ValueError(
            f"weights for {old.prefix} prefix tokens cannot be resampled to {new.prefix}; "
            "build the model with as many class and register tokens as the checkpoint has"
        )
    x = x.movedim(axis, -1)
    prefix, patches = x[..., : new.prefix], x[..., old.prefix :]
    if (old.rows, old.columns) != (new.rows, new.columns):
        if old.columns == new.columns == 1:
            # For a single column torch 2.14 returns the first value everywhere; a single row is resampled correctly.
            old, new = TokenLayout(1, old.rows, old.prefix), TokenLayout(1, new.rows, new.prefix)
        images = patches.reshape(-1, 1, old.rows, old.columns).to(torch.promote_types(x.dtype, torch.float32))
        images = F.interpolate(images, size=(new.rows, new.columns), mode="bicubic", antialias=True)
        if keep_sum:
            images = images * (old.rows * old.columns / (new.rows * new.columns))
        patches = images.reshape(*patches.shape[:-1], new.rows * new.columns).to(x.dtype)
    return torch.cat([prefix, patches], dim=-1).movedim(-1, axis).contiguous()
