"""Differential attention: the difference of two softmax maps, which cancels what both attend to.

Source: Ye et al., "Differential Transformer", arXiv:2410.05258.

    head = (softmax(Q₁K₁ᵀ/√d) − λ softmax(Q₂K₂ᵀ/√d)) V
    λ = exp(λ_q1·λ_k1) − exp(λ_q2·λ_k2) + λ_init,      λ_init = 0.8 − 0.6 exp(−0.3 l) in block l = 0, 1, …
    out = W_o concat((1 − λ_init) RMSNorm(head))

As in the paper, two neighbouring heads of queries and keys share one head of values of twice the width: H heads become
H/2, with one λ and one norm gain shared by all. If H is odd, each head is split in two instead: H heads with maps over
d/2 channels each.

Cost: O(N²·D), with twice the map-value product of softmax attention, besides the four projections.

Family: softmax.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.norms import RMSNorm
from fvit.attention.ops import refuse_mask_and_causality, softmax_map
from fvit.attention.registry import register

FLASH = ("cuda",)
"""Devices with flash attention."""


@register("differential")
class DifferentialAttention(Mechanism):
    """Differential attention. Other arguments as for `Projected`; `attn_drop` applies to each of the two maps.

    Args:
        lambda_init: λ_init of every block, in [0, 1); the paper also tries 0.8 and 0.5. None for the formula.

    Raises:
        ValueError: `lambda_init` is out of range; the number and the width of the heads are both odd.
    """

    takes_pair_mask = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        proj_bias: bool = True,
        lambda_init: float | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_bias=proj_bias, **shared)
        if lambda_init is not None and not 0 <= lambda_init < 1:
            raise ValueError(f"differential: lambda_init={lambda_init} must be in [0, 1)")
        if dim % (2 * num_heads) and num_heads % 2:
            raise ValueError(
                f"differential: {num_heads} heads of width {self.head_dim} can be neither paired nor split in two; "
                "use an even num_heads"
            )
        self.maps = num_heads if num_heads % 2 == 0 else 2 * num_heads
        self.fixed_lambda_init = lambda_init
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **self.factory)
        self.lambda_q = nn.Parameter(torch.empty(2, dim // self.maps, **self.factory))
        self.lambda_k = nn.Parameter(torch.empty(2, dim // self.maps, **self.factory))
        self.norm = RMSNorm(2 * dim // self.maps, eps=1e-5, **self.factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **self.factory)
        self.init_weights()

    @property
    def lambda_init(self) -> float:
        """λ_init of this block."""
        if self.fixed_lambda_init is not None:
            return self.fixed_lambda_init
        return 0.8 - 0.6 * math.exp(-0.3 * self.block_index)

    def init_weights(self) -> None:
        for weight in (self.lambda_q, self.lambda_k):
            nn.init.normal_(weight, std=0.1)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        refuse_mask_and_causality(attn_mask, is_causal)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        v = v.unflatten(-1, (self.maps // 2, -1)).transpose(1, 2)
        first, second = (self._read(q, k, v, which, attn_mask, is_causal) for which in (0, 1))
        out = self.norm(first - self._lambda() * second) * (1 - self.lambda_init)
        return self.proj_drop(self.proj(self.merge_heads(out)))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """The ``map``: the difference of the two, before the norm."""
        q, k, _ = self.qkv(x).chunk(3, dim=-1)
        first, second = (
            softmax_map(*self._q_and_k(q, k, which), self._mask_of(attn_mask, which), is_causal) for which in (0, 1)
        )
        return {"map": first - self._lambda() * second}

    def _read(self, q: Tensor, k: Tensor, v: Tensor, which: int, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        """The values under the first or second map of each head, [B, maps / 2, N, 2 · C / maps]."""
        q, k = self._q_and_k(q, k, which)
        # Each half has a call of its own where flash attention takes no values wider than keys; the products of queries
        # and keys are then computed twice. Not with dropout, which would drop other weights from each.
        whole = v.device.type not in FLASH or (self.training and self.attn_drop.p)
        halves = v.chunk(1 if whole else 2, dim=-1)
        mask = self._mask_of(attn_mask, which)
        return torch.cat([self.sdpa(q, k, half, mask, is_causal=is_causal) for half in halves], dim=-1)

    def _lambda(self) -> Tensor:
        lambdas = (self.lambda_q * self.lambda_k).sum(dim=-1).exp()
        return lambdas[0] - lambdas[1] + self.lambda_init

    def _q_and_k(self, q: Tensor, k: Tensor, which: int) -> list[Tensor]:
        """Queries and keys of the first or second map of each head, [B, N, C] -> [B, maps / 2, N, C / maps]."""
        return [t.unflatten(-1, (self.maps, -1))[:, :, which::2].transpose(1, 2) for t in (q, k)]

    def _mask_of(self, attn_mask: Tensor | None, which: int) -> Tensor | None:
        """The mask of those maps: if heads were paired, a mask per head is a mask per map."""
        per_map = attn_mask is not None and attn_mask.ndim > 2 and attn_mask.shape[-3] == self.maps
        return attn_mask[..., which::2, :, :] if per_map else attn_mask
