"""What most mechanisms have in common: a joint projection before them, and an output projection behind."""

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism


class Projected(Mechanism):
    """Base of the mechanisms that stand where softmax attention stands, between `qkv` and `proj`.

    A subclass writes `mix`; one that needs more than q, k, v and a mask over keys writes `forward`, from `heads` and
    `output`. Softmax checkpoints load into both projections by their names.

    Args:
        dim: width D.
        num_heads: number of heads H, d = D / H.
        qkv_bias: biases of the joint projection.
        attn_drop: dropout on what weighs the tokens; each mechanism says what that is.
        proj_drop: dropout on the output.
        proj_bias: bias of the output projection.
        device: where the parameters are made.
        dtype: their type.
        host: as for `Mechanism`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias=proj_bias, **host)
        self.refuse_host_options(**host)
        factory = dict(device=device, dtype=dtype)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **factory)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        return self.output(self.mix(*self.heads(x), self.key_bias(attn_mask, x)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """The mechanism itself: q, k, v [B, H, N, d] and a bias on keys, [B or 1, 1, N] or None, to [B, H, N, d]."""
        raise NotImplementedError(f"{type(self).__name__} writes neither mix nor forward")

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens [B, N, C], each [B, H, N, d]."""
        q, k, v = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        return q, k, v

    def output(self, out_bhnd: Tensor) -> Tensor:
        """The output projection of [B, H, N, d], as [B, N, C]."""
        return self.proj_drop(self.proj(self.merge_heads(out_bhnd)))
