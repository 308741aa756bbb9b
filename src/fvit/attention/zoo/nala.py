"""NaLa, norm-aware linear attention: a query's norm sets how sharp its features are, which linear attention cancels.

Source: Meng et al., "Norm × Direction: Restoring the Missing Query Norm in Vision Linear Attention", arXiv:2506.21137
(NaLaFormer).

    out_n = W_o ([norm] (φ(q_n) Σ_m ψ(k_m)ᵀ v_m / (φ(q_n) Σ_m ψ(k_m)) [+ DWC(v)_n]) [⊙ SiLU(W_g x_n + b_g)])
    φ(q) = [ReLU(q̂)^p, ReLU(−q̂)^p],      q̂ = q / ‖q‖,      p = 3 (1/2 + tanh ‖q‖),      ψ(k) = [ReLU(k)³, ReLU(−k)³]

with powers per element, so that products of equal signs count and those of opposite signs do not. The authors' models
rotate both features by position in the numerator, add DWC, and gate the LayerNorm over all channels. Prefix tokens are
not rotated.

Cost: O(2·N·D·d) besides the four projections; DWC adds O(N·D·w²), the gate a fifth projection.

Family: linear.

Code: ZacharyMeng/NaLaFormer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.norms import LayerNorm
from fvit.attention.ops import cast_once, divide, kernel_average, unit
from fvit.attention.positions import Rotary
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("nala")
class NaLa(Projected):
    """NaLaFormer's attention. Other arguments as for `Projected`; `attn_drop` applies to ψ(k).

    Args:
        rotary: rotate the features by row and column; needs the grid and a d divisible by 4.
        gate: normalise the output and multiply it by SiLU of a projection of the input.
    """

    adds_conv = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        rotary: bool = False,
        gate: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        self.norm = LayerNorm(dim, **self.factory) if gate else None
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **self.factory) if gate else None
        self.rotary = Rotary("nala", self.head_dim, **self.factory) if rotary else None
        self.needs_grid = self.needs_grid or rotary

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        bias, x = self.key_bias(attn_mask, x), cast_once(x)
        q, k, v = self.heads(x)
        out = self.merge_heads(self.add_conv(self.mix(q, k, v, bias), v, attn_mask))
        if self.gate is not None:
            out = self.norm(out) * F.silu(self.gate(x))
        return self.proj_drop(self.proj(out))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        # Powers in float32 at least. The largest key of a head cancels in the quotient: cubes are at most 1.
        q, k = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (q, k))
        power = 3 * (0.5 + torch.linalg.vector_norm(q, dim=-1, keepdim=True).tanh())
        phi = _split_by_sign(unit(q, dim=-1)) ** torch.cat([power.expand_as(q)] * 2, dim=-1)
        if bias is not None:
            k = k * (bias / 3).exp().unsqueeze(-1)
        psi = self.attn_drop(_split_by_sign(divide(k, k.detach().abs().amax(dim=(-2, -1), keepdim=True))) ** 3)
        return kernel_average(phi, psi, v, None if self.rotary is None else self._rotate)

    def _rotate(self, x: Tensor) -> Tensor:
        """Each half of the features turned by its position, [B, H, N, 2d]."""
        return torch.cat([self.rotary(half) for half in x.chunk(2, dim=-1)], dim=-1)


def _split_by_sign(x: Tensor) -> Tensor:
    """[ReLU(x), ReLU(−x)], [B, H, N, d] -> [B, H, N, 2d]."""
    return torch.cat([F.relu(x), F.relu(-x)], dim=-1)
