"""Attention-free transformer with position biases: each pair of tokens has a learned bias, and no query meets a key.

Source: Zhai et al., "An Attention Free Transformer", arXiv:2105.14103, equation 2 (AFT-full).

    out_i = W_o (σ(q_i) ⊙ Σ_j exp(k_j + w_ij) ⊙ v_j / Σ_j exp(k_j + w_ij)),      w = a bᵀ, a and b [N, r]

The bias w is added, one for all channels. Being a sum it splits the exponential in two, so that both sums are products
of exp(w) [N, N] with exp(k). All channels are heads, so `num_heads` changes nothing. The output projection is that of
the attention which AFT replaces. The paper writes w as a product of rank 128; the parameters that it reports for its
ImageNet models, which have no position embedding, agree with that.

Cost: O(N²·D) besides the four projections. The exponentials are shifted by the largest key of a channel and by the
largest bias of a row. Where no token comes within e⁻⁸⁷ of both together, the sums vanish and the output is 0.
"""

import torch
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.ops import divide
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("aft_full")
class AftFull(FixedLength, Projected):
    """AFT-full. Arguments as for `Projected`, `attn_drop` falls on exp(k), and:

    Args:
        rank: rank r of the biases' factors a and b; None for a matrix w [N, N] of its own, which starts at 0.

    Raises:
        ValueError: `rank` is below 1; the tokens are not those of the layout; a mask between pairs of tokens, or
            causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        rank: int | None = 128,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        if rank is not None and rank < 1:
            raise ValueError(f"aft_full: rank={rank} leaves no bias; take at least 1, or null for a whole matrix")
        factory = dict(device=device, dtype=dtype)
        if rank is None:
            self.token_axes = {"position_bias": (0, 1)}
            self.position_bias = nn.Parameter(torch.empty(1, 1, **factory))
        else:
            self.token_axes = {"query_position": (0,), "key_position": (0,)}
            self.query_position = nn.Parameter(torch.empty(1, rank, **factory))
            self.key_position = nn.Parameter(torch.empty(1, rank, **factory))
        self.rank = rank

    def init_weights(self) -> None:
        """Draw a and b so that their product has σ = 0.02; a bias that is no product starts at 0."""
        if self.rank is None:
            super().init_weights()
            return
        for factor in (self.query_position, self.key_position):
            nn.init.trunc_normal_(factor, std=(0.02 / self.rank**0.5) ** 0.5)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q, k, v [B, H, N, d] to [B, H, N, d]."""
        self.check_length(q)
        if bias is not None:
            k = k + bias.unsqueeze(-1)
        w_nn = self.position_bias if self.rank is None else self.query_position @ self.key_position.T
        # What is taken from all keys of a channel, or from all biases of a row, cancels in the quotient.
        weight_nn = (w_nn - w_nn.detach().amax(dim=-1, keepdim=True)).exp()
        key = self.attn_drop((k - k.detach().amax(dim=-2, keepdim=True)).exp())
        numerator, denominator = (weight_nn @ torch.cat([key * v, key], dim=-1)).chunk(2, dim=-1)
        return q.sigmoid() * divide(numerator, denominator)
