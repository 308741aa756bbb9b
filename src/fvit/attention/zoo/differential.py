"""Differential attention: the difference of two softmax maps, in which what both attend to cancels.

Source: Ye et al., "Differential Transformer", arXiv:2410.05258.

    head = (softmax(Q₁K₁ᵀ/√d) − λ softmax(Q₂K₂ᵀ/√d)) V
    λ = exp(λ_q1·λ_k1) − exp(λ_q2·λ_k2) + λ_init,      λ_init = 0.8 − 0.6 exp(−0.3 l) in block l = 0, 1, …
    out = W_o concat((1 − λ_init) RMSNorm(head))

As in the paper two heads of queries and keys, neighbours, share one head of values twice as wide: H heads become H/2,
all with one λ and one gain of the norm. Where H is odd there are no pairs, and each head is split in two instead: H
heads whose maps see d/2 channels each.

Cost: O(N²·D), twice softmax attention's product of map and values, besides the four projections.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import refuse_mask_and_causality, softmax_map
from fvit.attention.registry import register


@register("differential")
class Differential(Mechanism):
    """Differential attention. Arguments as for `Mechanism`; `attn_drop` falls on each of the two maps. And:

    Args:
        lambda_init: λ_init for whatever block, in [0, 1), in place of the formula; the paper also tries 0.8 and 0.5.
            None follows the block of which `set_layout` tells.

    Raises:
        ValueError: `lambda_init` is out of its range; both the number and the width of the heads are odd.
    """

    takes_pair_mask = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        lambda_init: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias=proj_bias, **host)
        self.refuse_host_options(**host)
        if lambda_init is not None and not 0 <= lambda_init < 1:
            raise ValueError(f"differential: lambda_init={lambda_init} is outside [0, 1)")
        if dim % (2 * num_heads) and num_heads % 2:
            raise ValueError(
                f"differential: {num_heads} heads of width {self.head_dim} can neither be paired nor split in two; "
                "take an even num_heads"
            )
        self.maps = num_heads if num_heads % 2 == 0 else 2 * num_heads
        self.fixed_lambda_init = lambda_init
        factory = dict(device=device, dtype=dtype)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.lambda_q = nn.Parameter(torch.empty(2, dim // self.maps, **factory))
        self.lambda_k = nn.Parameter(torch.empty(2, dim // self.maps, **factory))
        self.norm = nn.RMSNorm(2 * dim // self.maps, eps=1e-5, **factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **factory)
        self.proj_drop = nn.Dropout(proj_drop)
        self.attn_drop = attn_drop
        self.init_weights()

    @property
    def lambda_init(self) -> float:
        """λ_init: the one that was given, or that of the block's depth."""
        if self.fixed_lambda_init is not None:
            return self.fixed_lambda_init
        return 0.8 - 0.6 * math.exp(-0.3 * self.block_index)

    def init_weights(self) -> None:
        """Draw the vectors of λ from N(0, 0.1²), as the authors do."""
        for weight in (self.lambda_q, self.lambda_k):
            nn.init.normal_(weight, std=0.1)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` broadcasts to [B, H, N, N]."""
        refuse_mask_and_causality(attn_mask, is_causal)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        first, second = (
            F.scaled_dot_product_attention(
                self._every_second(q, start),
                self._every_second(k, start),
                v.unflatten(-1, (self.maps // 2, -1)).transpose(1, 2),
                attn_mask=self._mask_of(attn_mask, start),
                dropout_p=self.attn_drop if self.training else 0.0,
                is_causal=is_causal,
            )
            for start in (0, 1)
        )
        out = self.norm(first - self._lambda() * second) * (1 - self.lambda_init)
        return self.proj_drop(self.proj(self.merge_heads(out)))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """As `Mechanism.weights`: the ``map``, the difference of the two, before the norm."""
        q, k, _ = self.qkv(x).chunk(3, dim=-1)
        first, second = (
            softmax_map(
                self._every_second(q, start), self._every_second(k, start), self._mask_of(attn_mask, start), is_causal
            )
            for start in (0, 1)
        )
        return {"map": first - self._lambda() * second}

    def _lambda(self) -> Tensor:
        """λ."""
        lambdas = (self.lambda_q * self.lambda_k).sum(dim=-1).exp()
        return lambdas[0] - lambdas[1] + self.lambda_init

    def _every_second(self, x: Tensor, start: int) -> Tensor:
        """[B, N, C] -> [B, maps / 2, N, C / maps], the queries or keys of one of the two maps of each head."""
        return x.unflatten(-1, (self.maps, -1))[:, :, start::2].transpose(1, 2)

    def _mask_of(self, attn_mask: Tensor | None, start: int) -> Tensor | None:
        """The mask of those maps: where heads were paired, a mask per head is a mask per map."""
        per_map = attn_mask is not None and attn_mask.ndim > 2 and attn_mask.shape[-3] == self.maps
        return attn_mask[..., start::2, :, :] if per_map else attn_mask
