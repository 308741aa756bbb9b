"""Softmax attention, through torch's fused kernels.

Source: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, equation 1; in a ViT: Dosovitskiy et al.,
arXiv:2010.11929.

    out = softmax(QKᵀ/√d) V

Options: one key and value for several queries' heads (`kv_heads`; Ainslie et al., arXiv:2305.13245, and for a single
one Shazeer, arXiv:1911.02150); rotation of queries and keys by row and column with the base 100 (`rotary`; Heo et al.,
arXiv:2403.13298, axial; prefix tokens are not rotated); maps that are mixed between heads, before the softmax and after
it, each by a matrix [H, H] (`talking_heads`; Shazeer et al., arXiv:2003.02436); values mixed with those of the first
block (`value_residual`; Zhou et al., arXiv:2410.17897). Mixed maps do not go through the fused kernels.

Cost: O(N²·D) besides the four projections; talking heads add O(N²·H²).

Family: softmax.
"""

from typing import Any

from torch import Tensor, nn

from fvit.attention.norms import LayerNorm
from fvit.attention.ops import Size, pair_bias, refuse_mask_and_causality, softmax_map
from fvit.attention.positions import Rotary
from fvit.attention.projected import Projected
from fvit.attention.registry import register
from fvit.attention.value_residual import ValueResidual


@register("softmax")
class SoftmaxAttention(Projected):
    """Softmax attention with the parameter names of timm's Attention, whose checkpoints load into it.

    Other arguments as for `Projected`; `attn_drop` applies to the attention map.

    Args:
        qk_norm: normalise queries and keys with `norm_layer`, as some timm hosts do.
        proj_bias: bias of the output projection.
        norm_layer: class of the norms; LayerNorm if None.
        kv_heads: number of heads of keys and values, a divisor of `num_heads`; None for as many.
        rotary: rotate queries and keys by row and column; needs the grid and a d divisible by 4.
        talking_heads: mix the maps of the heads before and after the softmax.
        value_residual: mix the first block's values into those of the others, with weights that are ``fixed`` or
            ``learned``; None for neither. Needs a model whose first block has the same option.

    Raises:
        ValueError: `kv_heads` does not divide `num_heads`, `rotary` does not fit the width of heads, or
            `value_residual` is unknown.
    """

    takes_pair_mask = True
    adds_conv = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        qk_norm: bool = False,
        proj_bias: bool = True,
        norm_layer: type[nn.Module] | None = None,
        kv_heads: int | None = None,
        rotary: bool = False,
        talking_heads: bool = False,
        value_residual: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(
            dim, num_heads, qkv_bias, qk_norm=qk_norm, proj_bias=proj_bias, norm_layer=norm_layer, **shared
        )
        if kv_heads is not None and (kv_heads < 1 or num_heads % kv_heads):
            raise ValueError(f"softmax: kv_heads={kv_heads} must divide num_heads={num_heads}")
        norm = norm_layer or LayerNorm
        self.kv_heads = num_heads if kv_heads is None else kv_heads
        if self.kv_heads < num_heads:
            self.qkv = nn.Linear(dim, dim + 2 * self.kv_heads * self.head_dim, bias=qkv_bias, **self.factory)
        self.q_norm = norm(self.head_dim, **self.factory) if qk_norm else nn.Identity()
        self.k_norm = norm(self.head_dim, **self.factory) if qk_norm else nn.Identity()
        self.proj = self._modules.pop("proj")  # last, as in timm's checkpoints
        self.mix_logits = nn.Linear(num_heads, num_heads, bias=False, **self.factory) if talking_heads else None
        self.mix_weights = nn.Linear(num_heads, num_heads, bias=False, **self.factory) if talking_heads else None
        self.rotary = Rotary("softmax", self.head_dim, inclusive=False, base=100, **self.factory) if rotary else None
        self.needs_grid = self.needs_grid or rotary
        self.value_residual = None if value_residual is None else ValueResidual(value_residual, **self.factory)

    def set_layout(self, grid_size: Size, num_prefix_tokens: int, block_index: int = 0) -> None:
        super().set_layout(grid_size, num_prefix_tokens, block_index)
        if self.value_residual is not None:
            self.value_residual.set_block(block_index)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        refuse_mask_and_causality(attn_mask, is_causal)
        q, k, v = self.heads(x)
        v = self.mix_values(v)
        if self.mix_logits is None:
            out = self.sdpa(q, k, v, attn_mask, is_causal=is_causal)
        else:
            out = self.attn_drop(self._map(q, k, attn_mask, is_causal)) @ v
        return self.output(self.add_conv(out, v, attn_mask, is_causal))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        q, k, _ = self.heads(x)
        return {"map": self._map(q, k, attn_mask, is_causal)}

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as the softmax sees them, each [B, H, N, d]."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = qkv.split((self.num_heads, self.kv_heads, self.kv_heads), dim=1)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        if self.kv_heads < self.num_heads:
            k, v = (t.repeat_interleave(self.num_heads // self.kv_heads, dim=1) for t in (k, v))
        return q, k, v

    def mix_values(self, v: Tensor) -> Tensor:
        """The values [B, H, N, d] with those of the first block mixed in, if this is asked for."""
        return v if self.value_residual is None else self.value_residual(v)

    def _map(self, q: Tensor, k: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        """The attention map [B, H, N, N]."""
        if self.mix_logits is None:
            return softmax_map(q, k, attn_mask, is_causal)
        bias, _ = pair_bias(attn_mask, is_causal, q)
        logits = _between_heads(self.mix_logits, q * self.scale @ k.mT)
        return _between_heads(self.mix_weights, (logits if bias is None else logits + bias).softmax(dim=-1))


def _between_heads(layer: nn.Linear, maps: Tensor) -> Tensor:
    return layer(maps.movedim(1, -1)).movedim(-1, 1)
