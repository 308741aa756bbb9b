"""NC-SSD, non-causal state space duality: Mamba-2's layer without order, so without a scan.

Source: Shi et al., "VSSD: Vision Mamba with Non-Causal State Space Duality", arXiv:2407.18559.

    out_n = W_o (LN(C_n Σ_m B_mᵀ (Δ_m a v_m) + s v_n) [⊙ (W_z x_n + b_z)])
    Δ_m = softplus(W_Δ x_m + b_Δ)      [v, B, C = SiLU(DWC([v, B, C]))]

Linear attention without a denominator, with keys B and queries C that all heads share and whose width, the state, does
not depend on D. How much a token adds is learned: its step Δ per head, times a rate a > 0 and beside a skip s per head.
The authors' models double the width of v (`expand`), convolve v, B and C (`conv`) and multiply by the input (`gate`).
They have no biases but b_Δ and those of the convolution. Prefix tokens are not convolved but activated, and a hidden
patch is zero to the convolution, like the border.

Cost: O(N·S·e·D) for a state of S and an expansion of e, besides projections of (e·D + 2S + H) and e·D; the convolution
adds O(N·(e·D + 2S)·w²), the gate e·D more columns.

Family: recurrence.

Code: YuHengsss/VSSD.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.norms import LayerNorm
from fvit.attention.ops import associate, cast_once, convolve_patches, depthwise
from fvit.attention.registry import register


@register("nc_ssd")
class NonCausalSSD(Mechanism):
    """VSSD's token mixer. Other arguments as for `Mechanism`; `attn_drop` applies to the steps Δ.

    Args:
        state: width S of the keys and queries, at least 1.
        expand: width of the values relative to `dim`, at least 1.
        conv: width w of the depth-wise convolution of values, keys and queries, odd; 0 for none. Needs the grid.
        gate: multiply the normalised output by a projection of the input.
        proj_bias: bias of the output projection.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        state: int = 64,
        expand: int = 1,
        conv: int = 0,
        gate: bool = False,
        proj_bias: bool = True,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_bias=proj_bias, **shared)
        if state < 1 or expand < 1:
            raise ValueError(f"nc_ssd: state={state} and expand={expand} must be at least 1")
        width = expand * dim
        self.widths = (width, state, state)
        self.vkq = nn.Linear(dim, sum(self.widths), bias=qkv_bias, **self.factory)
        self.step = nn.Linear(dim, num_heads, **self.factory)
        self.log_rate = nn.Parameter(torch.empty(num_heads, **self.factory))
        self.skip = nn.Parameter(torch.empty(num_heads, **self.factory))
        self.conv = depthwise("nc_ssd: conv", sum(self.widths), conv, **self.factory)
        self.norm = LayerNorm(width, **self.factory)
        self.gate = nn.Linear(dim, width, bias=qkv_bias, **self.factory) if gate else None
        self.proj = nn.Linear(width, dim, bias=proj_bias, **self.factory)
        self.needs_grid = conv > 0
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """As Mamba-2: steps from 0.001 to 0.1, evenly in the logarithm, rates from 1 to 16, and s = 1."""
        step = torch.empty_like(self.step.bias).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.step.bias.copy_(step.expm1().log())  # the inverse of softplus
        self.log_rate.uniform_(1, 16).log_()
        nn.init.ones_(self.skip)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        factor_bn1 = self.mask_factor(attn_mask, x)
        x = cast_once(x)
        v_bne, k, q = self._convolved(self.vkq(x), factor_bn1).split(self.widths, dim=-1)
        step_bnh = F.softplus(self.step(x)) * self.log_rate.exp()
        step_bnh = self.attn_drop(step_bnh if factor_bn1 is None else step_bnh * factor_bn1).to(v_bne.dtype)
        v = v_bne.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        out = associate(q.unsqueeze(1), k.unsqueeze(1), v * step_bnh.mT.unsqueeze(-1)) + v * self.skip[
            :, None, None
        ].to(v.dtype)
        out = self.norm(self.merge_heads(out))
        if self.gate is not None:
            out = out * self.gate(x)
        return self.proj_drop(self.proj(out))

    def _convolved(self, vkq: Tensor, factor_bn1: Tensor | None) -> Tensor:
        if self.conv is None:
            return vkq
        prefix = vkq[:, : self.num_prefix_tokens]
        seen = vkq if factor_bn1 is None else vkq * factor_bn1
        near = convolve_patches(self.conv, seen, self.grid_size, self.num_prefix_tokens)
        return F.silu(torch.cat([prefix, near[:, self.num_prefix_tokens :]], dim=1))
