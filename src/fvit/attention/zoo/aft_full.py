"""AFT-full, attention-free transformer: keys plus a learned bias per pair of tokens weight the values, channel-wise.

Source: Zhai et al., "An Attention Free Transformer", arXiv:2105.14103, equation 2 (AFT-full).

    out_i = W_o (σ(q_i) ⊙ Σ_j exp(k_j + w_ij) ⊙ v_j / Σ_j exp(k_j + w_ij)),      w = a bᵀ, a and b [N, r]

The bias w is added and shared by all channels, so exp(k_j + w_ij) factorises and both sums are products of exp(w)
[N, N] with exp(k). Every channel is a head of its own, so `num_heads` has no effect. The output projection is that of
the attention which AFT replaces. The paper factorises w with rank 128; the parameter counts of its ImageNet models,
which have no position embedding, agree with that.

Cost: O(N²·D) besides the four projections. The exponentials are shifted by each channel's largest key and each row's
largest bias. If no token is within e⁻⁸⁷ of both maxima, the sums underflow and the output is 0. They run in float32
instead of float16, in which that would be e⁻¹⁷, and gradients overflow long before.

Family: additive.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.ops import divide, not_half, without_autocast
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("aft_full")
class AFTFull(FixedLength, Projected):
    """AFT-full. Other arguments as for `Projected`; `attn_drop` applies to exp(k).

    Args:
        rank: rank r of the factors a and b, at least 1; None for a full matrix w [N, N], initialised to 0.
    """

    def __init__(self, dim: int, num_heads: int = 8, *, rank: int | None = 128, **shared: Any) -> None:
        super().__init__(dim, num_heads, **shared)
        if rank is not None and rank < 1:
            raise ValueError(f"aft_full: rank={rank} must be at least 1, or null for a full matrix")
        if rank is None:
            self.token_axes = {"position_bias": (0, 1)}
            self.position_bias = nn.Parameter(torch.empty(1, 1, **self.factory))
        else:
            self.token_axes = {"query_position": (0,), "key_position": (0,)}
            self.query_position = nn.Parameter(torch.empty(1, rank, **self.factory))
            self.key_position = nn.Parameter(torch.empty(1, rank, **self.factory))
        self.rank = rank

    def init_weights(self) -> None:
        """Initialise a and b such that their product has σ = 0.02; a full matrix starts at 0."""
        if self.rank is None:
            super().init_weights()
            return
        for factor in (self.query_position, self.key_position):
            nn.init.trunc_normal_(factor, std=(0.02 / self.rank**0.5) ** 0.5)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        self.check_length(q)
        if bias is not None:
            k = k + bias.unsqueeze(-1)
        w_nn = self.position_bias if self.rank is None else self.query_position @ self.key_position.T
        # A constant subtracted from all keys of a channel, or from all biases of a row, cancels in the quotient.
        weight_nn = (w_nn - w_nn.detach().amax(dim=-1, keepdim=True)).exp()
        key = self.attn_drop((k - k.detach().amax(dim=-2, keepdim=True)).exp())
        dtype = not_half(v.dtype)
        with without_autocast(v.device):
            sums = weight_nn.to(dtype) @ torch.cat([key * v, key], dim=-1).to(dtype)
        numerator, denominator = sums.chunk(2, dim=-1)
        return q.sigmoid() * divide(numerator, denominator).to(v.dtype)
