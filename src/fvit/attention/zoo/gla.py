"""GLA, gated linear attention, in both directions of the sequence: sums that each token lets decay, channel by channel.

Source: Liao et al., "ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention", arXiv:2405.18425;
gated linear attention: Yang et al., arXiv:2312.06635.

    out_n = W_o norm(o_n),      o_n = (q_n/√d) (S_n + S'_n) / 2      [W_o (norm(o_n) ⊙ g_n + norm'(x̃_n) ⊙ (1 − g_n))]
    S_n = diag(α_n) S_n−1 + k_nᵀ v_n,      S'_n = diag(α'_n) S'_n+1 + k_nᵀ v_n
    α = σ(W₂ W₁ x + b)^(1/16), α' likewise with its own part of W₂ and b      [x̃ = SiLU(DWC(x)), g = σ(W_g x̃ + b_g)]

The norms are RMSNorms per head, d is the width of keys and queries, half that of values, and W₁ has `gate_rank` rows.
The sequence is the prefix tokens, then the patches row by row; a hidden token neither adds nor decays. With `local`,
ViG's mixing, queries, keys, values and gates are of x̃, a depth-wise 3×3 convolution without bias, and x̃ is let
through where g is small; a prefix token is its own x̃, without SiLU, and a hidden patch is zero to DWC, like the
border. ViG's models also change the order of the patches from block to block.

The recurrence is evaluated in chunks of 16 tokens, with products of pairs inside and one state between them.

Cost: O(N·D·(d + 16)) besides projections of three quarters of softmax attention's and of the gates.

Family: recurrence.

Code: hustvl/ViG.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.norms import RMSNorm
from fvit.attention.ops import cast_once, convolve_patches, depthwise
from fvit.attention.registry import register

CHUNK = 16


@register("gla")
class GatedLinearAttention(Mechanism):
    """Bidirectional gated linear attention. Other arguments as for `Mechanism`; `attn_drop` applies to the keys.

    Args:
        gate_rank: rank of the projection to the decays α, at least 1.
        local: ViG's convolution of the input, and its mixing with the output; needs the grid.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        gate_rank: int = 16,
        local: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        if self.head_dim % 2:
            raise ValueError(f"gla: the width of heads must be even, got {self.head_dim}; use another num_heads")
        if gate_rank < 1:
            raise ValueError(f"gla: gate_rank={gate_rank} must be at least 1")
        self.qkv = nn.Linear(dim, 2 * dim, bias=qkv_bias, **self.factory)
        self.decay = nn.Sequential(
            nn.Linear(dim, gate_rank, bias=False, **self.factory), nn.Linear(gate_rank, dim, **self.factory)
        )
        self.norm = RMSNorm(self.head_dim, eps=1e-5, **self.factory)
        self.conv = depthwise("gla: local", dim, 3 if local else 0, bias=False, **self.factory)
        self.gate = nn.Linear(dim, dim, **self.factory) if local else None
        self.local_norm = RMSNorm(self.head_dim, eps=1e-5, **self.factory) if local else None
        self.proj = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.needs_grid = local

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        factor_bn1 = self.mask_factor(attn_mask, x)
        x = cast_once(x)
        if self.conv is not None:
            x = self._convolved(x, factor_bn1)
        q, k, v = (self._heads(t) for t in self.qkv(x).split((self.dim // 2, self.dim // 2, self.dim), dim=-1))
        # Decays and the sums they weight in float32 at least: they run over the whole sequence.
        dtype = torch.promote_types(v.dtype, torch.float32)
        log_decay = F.logsigmoid(self.decay(x).to(dtype)) / 16
        if factor_bn1 is not None:
            k, log_decay = k * factor_bn1.unsqueeze(1), log_decay * (factor_bn1 > 0)
        down, up = (self._heads(t) for t in log_decay.chunk(2, dim=-1))
        q, k, wide_v = q.to(dtype) * q.shape[-1] ** -0.5, self.attn_drop(k).to(dtype), v.to(dtype)
        backward = decaying_sums(*(t.flip(2) for t in (q, k, wide_v, up))).flip(2)
        out = self.norm((decaying_sums(q, k, wide_v, down) + backward).to(v.dtype) / 2)
        if self.gate is not None:
            gate = self._heads(self.gate(x).sigmoid())
            out = out * gate + self.local_norm(self._heads(x)) * (1 - gate)
        return self.proj_drop(self.proj(self.merge_heads(out)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _convolved(self, x: Tensor, factor_bn1: Tensor | None) -> Tensor:
        seen = x if factor_bn1 is None else x * factor_bn1
        near = F.silu(convolve_patches(self.conv, seen, self.grid_size, self.num_prefix_tokens))
        return torch.cat([x[:, : self.num_prefix_tokens], near[:, self.num_prefix_tokens :]], dim=1)


def decaying_sums(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """q_n Σ_{m ≤ n} diag(Π_{m < s ≤ n} α_s) k_mᵀ v_m for q, k, log α [B, H, N, d] and v [B, H, N, e]: [B, H, N, e]."""
    tokens = q.shape[-2]
    q, k, v, log_decay = (F.pad(t, (0, 0, 0, -tokens % CHUNK)).unflatten(2, (-1, CHUNK)) for t in (q, k, v, log_decay))
    # Only decays since an earlier token occur, whose exponential cannot overflow.
    since_start = log_decay.cumsum(dim=-2)
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).triu(1).unsqueeze(-1)
    since_key = (since_start.unsqueeze(-2) - since_start.unsqueeze(-3)).masked_fill(later, float("-inf")).exp()
    scores = (q.unsqueeze(-2) * since_key * k.unsqueeze(-3)).sum(dim=-1)
    whole = since_start[..., -1:, :]
    added = (k * (whole - since_start).exp()).mT @ v
    states = [torch.zeros_like(added[:, :, 0])]
    for kept, new in zip(whole.exp().mT.unbind(2)[:-1], added.unbind(2)[:-1], strict=True):
        states.append(states[-1] * kept + new)
    out = scores @ v + (q * since_start.exp()) @ torch.stack(states, dim=2)
    return out.flatten(2, 3)[:, :, :tokens]
