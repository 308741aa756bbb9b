"""The contract that every mechanism keeps, and the little they share."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import Size, rows_and_columns

HOST_OPTIONS = ("qk_norm", "scale_norm", "proj_bias", "norm_layer")
"""What timm's blocks may ask of their attention, besides what every mechanism has."""


class Mechanism(nn.Module):
    """Base of all mechanisms: maps tokens [B, N, C] to tokens [B, N, C].

    The constructor speaks timm's language, so that a class can also be handed to timm as ``attn_layer=``. What a
    mechanism needs of its surroundings it declares in the class attributes; `fvit.models.exchange` reads them and
    calls `set_layout`.

    Args:
        dim: width C of the tokens.
        num_heads: number of heads H; must divide `dim`.
        qkv_bias: biases in the input projections.
        attn_drop: dropout on attention weights, in [0, 1).
        proj_drop: dropout on the output, in [0, 1).
        host: what timm's blocks pass besides, `HOST_OPTIONS`. A mechanism that has no use for one of them refuses it
            through `refuse_host_options`.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    needs_grid: ClassVar[bool] = False
    """Whether `forward` needs the 2-D layout of the patches."""
    fixed_length: ClassVar[bool] = False
    """Whether parameters are shaped by the number of tokens, so that `set_layout` must resize them."""
    takes_prefix: ClassVar[bool] = True
    """Whether class and register tokens may precede the patches."""
    reaches_prefix: ClassVar[bool] = True
    """Whether prefix tokens learn anything of the patches: a class token of a model without it sees no image."""
    takes_pair_mask: ClassVar[bool] = False
    """Whether a mask, or a bias on the logits, may differ from query to query and from head to head."""

    form: str = "auto"
    """How the formula is evaluated: ``auto`` takes the order with the fewest products, where there is a choice, and
    ``textbook`` that in which it is written, of which papers count the products."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        **host: object,
    ) -> None:
        super().__init__()
        for option, rate in (("attn_drop", attn_drop), ("proj_drop", proj_drop)):
            if not 0 <= rate < 1:
                raise ValueError(f"{option}={rate} is no dropout rate; take one in [0, 1)")
        if num_heads < 1 or dim % num_heads:
            fitting = [h for h in range(1, dim + 1) if dim % h == 0]
            nearest = sorted(sorted(fitting, key=lambda h: abs(h - num_heads))[:3])
            raise ValueError(
                f"width {dim} is not divisible by {num_heads} heads; "
                f"take num_heads={' or '.join(map(str, nearest))}, or a width that is a multiple of the heads"
            )
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        # What the host asked for, so that another mechanism can later take this one's place.
        self.host_args = dict(num_heads=num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop, **host)
        self.grid_size: Size | None = None
        self.num_prefix_tokens = 0
        self.block_index = 0

    def set_layout(self, grid_size: Size, num_prefix_tokens: int, block_index: int = 0) -> None:
        """Tell how the tokens lie: `num_prefix_tokens` first, then `grid_size` = (rows, columns) of patches.

        `block_index`, from 0, is for what changes with depth, such as the shift of windows in every second block.
        Parts of a mechanism that are mechanisms themselves, such as learned positions, are told as well.
        """
        for part in self.children():
            if isinstance(part, Mechanism):
                part.set_layout(grid_size, num_prefix_tokens, block_index)
        self.grid_size = grid_size
        self.num_prefix_tokens = num_prefix_tokens
        self.block_index = block_index

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """The weights that tokens x [B, N, C] get in ``forward(x, …)``, by name, dropout aside.

        [B, H, N] where all queries share them, [B, H, N, N] where each has a row of its own; empty for a mechanism
        that weighs no token by itself.
        """
        return {}

    def init_weights(self) -> None:
        """Initialise what a plain Linear's initialisation does not fit; timm calls it after initialising Linears."""

    def extra_repr(self) -> str:
        """Show width and heads when a model is printed."""
        return f"dim={self.dim}, num_heads={self.num_heads}"

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, H, N, d]."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def merge_heads(self, x: Tensor) -> Tensor:
        """[B, H, N, d] -> [B, N, C]."""
        return x.transpose(1, 2).flatten(2)

    def to_grid(self, x: Tensor) -> Tensor:
        """The patches of tokens in their rows and columns, [B, N, C] -> [B, C, rows, columns].

        Raises:
            ValueError: the tokens are not those of the layout.
        """
        grid = rows_and_columns(type(self).__name__, x.shape[1], self.grid_size, self.num_prefix_tokens)
        return x[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)

    def from_grid(self, patches: Tensor) -> Tensor:
        """Patches as tokens behind prefix tokens of 0, [B, C, rows, columns] -> [B, N, C]."""
        return F.pad(patches.flatten(2).transpose(1, 2), (0, 0, self.num_prefix_tokens, 0))

    def refuse_causal(self, is_causal: bool) -> None:
        """Raise ValueError if asked for causality, which most mechanisms of vision do not have."""
        if is_causal:
            raise ValueError(f"{type(self).__name__} mixes all tokens and cannot be causal; use attention=softmax")

    def refuse_host_options(self, **host: object) -> None:
        """Raise ValueError if the host asks for an option (`qk_norm`, …) that this mechanism does not have."""
        if unknown := sorted(host.keys() - set(HOST_OPTIONS)):
            raise ValueError(f"{type(self).__name__} has no option {', '.join(unknown)}")
        for name, neutral in (("qk_norm", False), ("scale_norm", False), ("proj_bias", True)):
            if bool(host.get(name, neutral)) is not neutral:
                raise ValueError(
                    f"{type(self).__name__} cannot honour {name}={host[name]}; build the host with {name}={neutral}"
                )

    def key_bias(self, attn_mask: Tensor | None, x: Tensor) -> Tensor | None:
        """Turn a mask over keys into a bias on their logits, [B or 1, 1, N], in the dtype of `x`.

        SDPA's convention: a boolean mask is True where a token takes part, a float mask is added to the logits.

        Raises:
            ValueError: the mask differs from query to query or from head to head, so that a mechanism which pools
                all tokens into one vector cannot honour it.
        """
        if attn_mask is None:
            return None
        batch, tokens, _ = x.shape
        shape = tuple(attn_mask.shape)
        if len(shape) != 4 or shape[0] not in (1, batch) or shape[1:] != (1, 1, tokens):
            raise ValueError(
                f"{type(self).__name__} pools over all tokens and takes a mask over keys alone, of shape "
                f"[{batch}, 1, 1, {tokens}]; got {list(shape)}. Use attention=softmax for a mask between pairs"
            )
        mask = attn_mask[:, 0]
        if mask.dtype == torch.bool:
            return torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, float("-inf"))
        return mask.to(x.dtype)
