"""Bi-WKV, the attention of Vision-RWKV: keys weighted by their exponential and by the distance along the sequence.

Source: Duan et al., "Vision-RWKV: Efficient and Scalable Visual Perception with RWKV-Like Architectures",
arXiv:2403.02308.

    out_n = W_o (σ(r_n) ⊙ Σ_m e_nm v_m / Σ_m e_nm),      e_nm = exp(k_m − (|n − m| − 1) w/N),      e_nn = exp(k_n + u/N)
    r, k, v = W (x [+ (1 − μ) ⊙ (shift(x) − x)]) per channel, with a μ for each

w and u are learned per channel. Each channel has a map of its own, and there are no heads. The sum over the past is
exp(−(n − 1) w/N) Σ_{m<n} exp(k_m + m w/N) v_m, which a running sum evaluates, and the future's likewise: exponents stay
below w since they are divided by N, the number of tokens that a mask leaves. Vision-RWKV shifts a quarter of the
channels by one patch in each direction (`shift`); prefix tokens are not shifted, and a hidden patch is zero to the
shift, like the border. Its projections have no biases. w, u and μ start as in its first block: the others' start
depends on the depth.

Cost: O(N·D) besides the four projections.

Family: recurrence.

Code: OpenGVLab/Vision-RWKV.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import cast_once, divide
from fvit.attention.registry import register


@register("vrwkv")
class BiWKV(Mechanism):
    """Vision-RWKV's spatial mix. Other arguments as for `Mechanism`; `attn_drop` applies to exp(k).

    Args:
        shift: mix the input with its neighbours in four directions; needs the grid.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, *, shift: bool = False, **shared: Any
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        self.r = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.k = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.v = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.decay = nn.Parameter(torch.empty(dim, **self.factory))
        self.own = nn.Parameter(torch.empty(dim, **self.factory))
        self.mixing = nn.Parameter(torch.empty(3, dim, **self.factory)) if shift else None
        self.proj = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.needs_grid = shift
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        place = torch.arange(self.dim)
        self.decay.copy_(8 * (place / max(self.dim - 1, 1)) ** 0.7 - 5)
        self.own.copy_(math.log(0.3) + 0.5 * ((place + 1) % 3 - 1))
        if self.mixing is not None:
            self.mixing.copy_(torch.stack([(place / self.dim) ** 0.5, place / self.dim, place / self.dim]))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        factor_bn1 = self.mask_factor(attn_mask, x)
        bias_bn1 = None if factor_bn1 is None else self.key_bias(attn_mask, x).mT
        mixed = [cast_once(x)] * 3
        if self.mixing is not None:
            step = self._shifted(x if factor_bn1 is None else x * factor_bn1) - x
            mixed = [x + (1 - mu) * step for mu in self.mixing]
        r, k, v = (layer(t) for layer, t in zip((self.r, self.k, self.v), mixed, strict=True))
        return self.proj_drop(self.proj(r.sigmoid() * self._average(k, v, bias_bn1)))

    def _average(self, k: Tensor, v: Tensor, bias_bn1: Tensor | None) -> Tensor:
        """Σ_m e_nm v_m / Σ_m e_nm, [B, N, C], in float32 at least."""
        dtype = torch.promote_types(v.dtype, torch.float32)
        tokens = k.new_full((1, 1, 1), k.shape[1], dtype=dtype)
        k = k.to(dtype)
        if bias_bn1 is not None:
            k, tokens = k + bias_bn1, (bias_bn1.exp() > 0).sum(dim=1, keepdim=True).to(dtype)
        # A constant per channel cancels.
        weight = self.attn_drop((k - k.detach().amax(dim=1, keepdim=True)).exp())
        pair = torch.stack([weight * v.to(dtype), weight])
        rate = divide(self.decay.to(dtype).expand(1, 1, -1), tokens)
        place = torch.arange(k.shape[1], device=k.device, dtype=dtype)[:, None] - k.shape[1] / 2
        rise, fall = (place * rate).exp(), (-place * rate).exp()
        past = F.pad((pair * rise).cumsum(dim=2), (0, 0, 1, -1)) * fall * rate.exp()
        future = F.pad((pair * fall).flip(2).cumsum(dim=2).flip(2), (0, 0, -1, 1)) * rise * rate.exp()
        total, count = past + future + pair * divide(self.own.to(dtype).expand(1, 1, -1), tokens).exp()
        return divide(total, count).to(v.dtype)

    def _shifted(self, x: Tensor) -> Tensor:
        """Patches with a quarter of the channels moved right, left, down and up; prefix tokens as they are."""
        quarters = self.to_grid(x).split(self.dim // 4, dim=1)
        moves = ((1, -1, 0, 0), (-1, 1, 0, 0), (0, 0, 1, -1), (0, 0, -1, 1))
        moved = [F.pad(quarter, move) for quarter, move in zip(quarters, moves, strict=False)]
        patches = torch.cat([*moved, *quarters[4:]], dim=1).flatten(2).transpose(1, 2)
        return torch.cat([x[:, : self.num_prefix_tokens], patches], dim=1)
