"""MILA's linear attention: elu + 1, with rotary positions in the numerator.

Source: Han et al., "Demystify Mamba in Vision: A Linear Attention Perspective", arXiv:2405.16605 (MILA, at first MLLA).

    out_n = W_o ((R_n φ(q_n) · Σ_m R_m φ(k_m)ᵀ v_m / (φ(q_n) Σ_m φ(k_m)) [+ LePE(v)_n]) [⊙ SiLU(W_g x_n + b_g)])
    φ = elu + 1      R: channels 2j and 2j + 1 of all C turned by the angle 10000^(−4j'/C) · row or column

As in the published code R spans the channels of all heads: the first half of them follows the row, with j' = j, the
second the column, with j' = j − C/4. The denominator stays unturned, since turned features may be negative. Prefix
tokens lie on no grid and are not turned. LePE is a depth-wise w×w convolution with a bias over the patches; prefix
tokens are left out of it, and a hidden patch is zero to it, as the border is.

MILA's blocks have more: a convolution with a SiLU before the attention, whose values are that input itself and no
projection of it, and convolutions around it.

Cost: O(N·D·d) besides the four projections; LePE adds O(N·D·w²), and the gate one more projection.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import associate, convolve_patches, depthwise, divide
from fvit.attention.projected import Projected
from fvit.attention.registry import register
from fvit.attention.rotary import rotate_patches


@register("mlla")
class Mlla(Projected):
    """MILA's linear attention. Arguments as for `Projected`, `attn_drop` falls on φ(k), and:

    Args:
        conv: width w of LePE, odd; 0 for none.
        gate: multiply the output by SiLU(W_g x + b_g) before the output projection.

    Raises:
        ValueError: `dim` is no multiple of 4; `conv` is even or negative; the tokens do not fill the grid; a mask
            between pairs of tokens, or causality, is asked for.
    """

    needs_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        conv: int = 0,
        gate: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        if dim % 4:
            raise ValueError(f"mlla: width {dim} has no pairs of channels for rows and columns; take a multiple of 4")
        factory = dict(device=device, dtype=dtype)
        self.conv = depthwise("mlla: conv", dim, conv, **factory)
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **factory) if gate else None

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        bias = self.key_bias(attn_mask, x)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        q_bnc, k_bnc = F.elu(q_bnc) + 1, F.elu(k_bnc) + 1
        if bias is not None:
            # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
            presence_bn1 = bias.exp().transpose(1, 2)
            k_bnc = k_bnc * presence_bn1
        k_bnc = self.attn_drop(k_bnc)
        turned_q, turned_k = self._turned(q_bnc), self._turned(k_bnc)
        q, k, v = (self.split_heads(t) for t in (q_bnc, k_bnc, v_bnc))
        out = divide(associate(turned_q, turned_k, v), q @ k.sum(dim=-2).unsqueeze(-1))
        out = self.merge_heads(out)
        if self.conv is not None:
            v_bnc = v_bnc if bias is None else v_bnc * presence_bn1
            out = out + convolve_patches(self.conv, v_bnc, self.grid_size, self.num_prefix_tokens)
        if self.gate is not None:
            out = out * F.silu(self.gate(x))
        return self.proj_drop(self.proj(out))

    def _turned(self, x_bnc: Tensor) -> Tensor:
        """R x, head by head: turned while the heads are one, [B, N, C] -> [B, H, N, d]."""
        turned = rotate_patches(x_bnc.unsqueeze(1), self.grid_size, self.num_prefix_tokens, inclusive=False)
        return self.split_heads(turned.squeeze(1))
