"""`Mechanism`: the contract that every attention mechanism keeps."""

import inspect
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fully_masked import zero_fully_masked
from fvit.attention.ops import Size, rows_and_columns
from fvit.attention.tables import LayoutTables

HOST_OPTIONS = ("qk_norm", "scale_norm", "proj_bias", "norm_layer")
"""What timm's blocks may pass to their attention in addition to the arguments of `Mechanism`."""


class Mechanism(nn.Module):
    """Base class of all mechanisms, which map tokens [B, N, C] to tokens [B, N, C].

    The constructor takes timm's arguments, so each class also works as timm's ``attn_layer=``. A subclass declares the
    arguments it reads or adds, passes everything else on, and ends up with the signature of both::

        def __init__(self, dim, num_heads=8, qkv_bias=True, window=7, **shared):
            super().__init__(dim, num_heads, qkv_bias, **shared)
            self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias, **self.factory)

    What a mechanism requires of its host is declared in the class attributes; `fvit.models.exchange` reads them and
    calls `set_layout`. ``forward(x, attn_mask=None, is_causal=False)`` raises ValueError for a mask or causality that
    the mechanism cannot honour, and for a number of tokens that does not match the layout. A query from which a mask
    hides all keys gets 0; `zero_fully_masked` sees to it.

    Args:
        dim: width C of the tokens.
        num_heads: number of heads H; must divide `dim`.
        qkv_bias: biases of the input projections.
        attn_drop: dropout rate of the attention weights, in [0, 1).
        proj_drop: dropout rate of the output, in [0, 1).
        device: device of the parameters.
        dtype: dtype of the parameters.
        host: `HOST_OPTIONS`. Those that the subclass does not declare must have their neutral value.

    Raises:
        ValueError: `num_heads` does not divide `dim`, a rate is out of range, or a host option is not supported.
    """

    needs_grid: ClassVar[bool] = False
    """Whether `forward` needs the 2-D layout of the patches."""
    fixed_length: ClassVar[bool] = False
    """Whether parameters are shaped by the number of tokens, so that `set_layout` must resize them."""
    takes_prefix: ClassVar[bool] = True
    """Whether class and register tokens may precede the patches."""
    reaches_prefix: ClassVar[bool] = True
    """Whether prefix tokens receive information from the patches. If not, a class token never sees the image."""
    takes_pair_mask: ClassVar[bool] = False
    """Whether a mask, or a bias on the logits, may differ between queries and between heads."""

    form: str = "auto"
    """Order of evaluation: ``auto`` has the fewest MACs; ``textbook`` follows the formula, whose MACs papers report."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__signature__ = _full_signature(cls)
        for name in vars(cls).keys() & {"forward", "weights"}:
            method = vars(cls)[name]
            if "attn_mask" in inspect.signature(method).parameters:
                setattr(cls, name, zero_fully_masked(method))

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: Any,
    ) -> None:
        super().__init__()
        self.refuse_host_options(
            **{name: value for name, value in host.items() if name not in inspect.signature(type(self)).parameters}
        )
        for option, rate in (("attn_drop", attn_drop), ("proj_drop", proj_drop)):
            if not 0 <= rate < 1:
                raise ValueError(f"{option}={rate} must be in [0, 1)")
        if num_heads < 1 or dim % num_heads:
            fitting = [h for h in range(1, dim + 1) if dim % h == 0]
            nearest = sorted(sorted(fitting, key=lambda h: abs(h - num_heads))[:3])
            raise ValueError(
                f"width {dim} is not divisible by {num_heads} heads; use num_heads="
                f"{' or '.join(map(str, nearest))}, or a width that is a multiple of num_heads"
            )
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)
        self.factory = dict(device=device, dtype=dtype)
        # What the host asked for, so that another mechanism can later take this one's place.
        self.host_args = dict(num_heads=num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop, **host)
        self.grid_size: Size | None = None
        self.num_prefix_tokens = 0
        self.block_index = 0

    def set_layout(self, grid_size: Size, num_prefix_tokens: int, block_index: int = 0) -> None:
        """Set the token layout: `num_prefix_tokens` first, then the patches of a grid of (rows, columns), row by row.

        Called once after construction and again whenever the input size changes, also for submodules that follow the
        layout themselves. `block_index` counts from 0, for what depends on depth, such as shifted windows.
        """
        for part in self.children():
            if isinstance(part, Mechanism | LayoutTables):
                part.set_layout(grid_size, num_prefix_tokens, block_index)
        self.grid_size = grid_size
        self.num_prefix_tokens = num_prefix_tokens
        self.block_index = block_index

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """The attention weights of ``forward(x, …)`` without dropout, by name, for tokens x [B, N, C].

        [B, H, N] if all queries share them, [B, H, N, N] if each query has its own; empty for a mechanism that does
        not weight individual tokens.
        """
        return {}

    def init_weights(self) -> None:
        """Initialise what a Linear's default initialisation does not suit; timm calls this after its own."""

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}"

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, H, N, d]."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def merge_heads(self, x: Tensor) -> Tensor:
        """[B, H, N, d] -> [B, N, C]."""
        return x.transpose(1, 2).flatten(2)

    def to_grid(self, x: Tensor) -> Tensor:
        """The patches of tokens on their grid, [B, N, C] -> [B, C, rows, columns].

        Raises:
            ValueError: the number of tokens does not match the layout.
        """
        grid = rows_and_columns(type(self).__name__, x.shape[1], self.grid_size, self.num_prefix_tokens)
        return x[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)

    def from_grid(self, patches: Tensor) -> Tensor:
        """Patches as tokens, with zeros for the prefix tokens, [B, C, rows, columns] -> [B, N, C]."""
        return F.pad(patches.flatten(2).transpose(1, 2), (0, 0, self.num_prefix_tokens, 0))

    def sdpa(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        """torch's fused softmax attention, with this mechanism's dropout on the attention weights."""
        dropout = self.attn_drop.p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p=dropout, **options)

    def refuse_causal(self, is_causal: bool) -> None:
        """Raise ValueError if causality is requested."""
        if is_causal:
            raise ValueError(f"{type(self).__name__} mixes all tokens and cannot be causal; use attention=softmax")

    def refuse_host_options(self, **host: Any) -> None:
        """Raise ValueError if an option is none of `HOST_OPTIONS` or does not have its neutral value."""
        if unknown := sorted(host.keys() - set(HOST_OPTIONS)):
            raise ValueError(f"{type(self).__name__} has no option {', '.join(unknown)}")
        for name, neutral in (("qk_norm", False), ("scale_norm", False), ("proj_bias", True)):
            if bool(host.get(name, neutral)) is not neutral:
                raise ValueError(
                    f"{type(self).__name__} cannot honour {name}={host[name]}; build the host with {name}={neutral} "
                    f"(++model.{name}={str(neutral).lower()})"
                )

    def key_bias(self, attn_mask: Tensor | None, x: Tensor) -> Tensor | None:
        """Turn a mask over keys into a bias on their logits, [B or 1, 1, N], in the dtype of `x`.

        SDPA's convention: a boolean mask is True where a token takes part, a float mask is added to the logits.

        Raises:
            ValueError: the mask differs between queries or heads.
        """
        if attn_mask is None:
            return None
        batch, tokens, _ = x.shape
        shape = tuple(attn_mask.shape)
        if len(shape) != 4 or shape[0] not in (1, batch) or shape[1:] != (1, 1, tokens):
            raise ValueError(
                f"{type(self).__name__} only supports a mask over keys, of shape [{batch}, 1, 1, {tokens}]; "
                f"got {list(shape)}. Use attention=softmax for a mask between pairs of tokens"
            )
        mask = attn_mask[:, 0]
        if mask.dtype == torch.bool:
            return torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, float("-inf"))
        return mask.to(x.dtype)

    def mask_factor(self, attn_mask: Tensor | None, x: Tensor) -> Tensor | None:
        """`key_bias` for mechanisms without logits, as a factor exp(bias) per token, [B or 1, N, 1]: 0 hides it."""
        bias = self.key_bias(attn_mask, x)
        return None if bias is None else bias.exp().transpose(1, 2)


def _full_signature(cls: type[Mechanism]) -> inspect.Signature:
    """The constructor's signature, with the base class's parameters in place of ``**shared``."""
    _, *own = inspect.signature(cls.__init__).parameters.values()
    kinds = {parameter.kind for parameter in own}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        return inspect.Signature(own)
    base = next(base for base in cls.__mro__[1:] if "__init__" in vars(base))
    explicit = [p for p in own if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)]
    inherited = [p for name, p in inspect.signature(base).parameters.items() if name not in {p.name for p in explicit}]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        inherited = [
            p if p.kind is inspect.Parameter.VAR_KEYWORD else p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inherited
        ]
    return inspect.Signature([*explicit, *inherited])
