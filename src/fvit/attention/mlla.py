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

from fvit.attention.ops import convolve_patches, divide
from fvit.attention.projected import Projected
from fvit.attention.registry import register


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
        if conv < 0 or (conv and conv % 2 == 0):
            raise ValueError(f"mlla: conv={conv} has no centre; take an odd width, or 0 for none")
        factory = dict(device=device, dtype=dtype)
        self.conv = nn.Conv2d(dim, dim, conv, padding=conv // 2, groups=dim, **factory) if conv else None
        self.gate = nn.Linear(dim, dim, bias=qkv_bias, **factory) if gate else None

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        self.check_grid(x)
        bias = self.key_bias(attn_mask, x)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        q_bnc, k_bnc = F.elu(q_bnc) + 1, F.elu(k_bnc) + 1
        if bias is not None:
            # A bias on a softmax's logit is a factor on its kernel: exp(-inf) = 0 removes the token.
            presence_bn1 = bias.exp().transpose(1, 2)
            k_bnc = k_bnc * presence_bn1
        k_bnc = self.attn_drop(k_bnc)
        angles_nj = self._angles(x)
        q, k, v = (self.split_heads(t) for t in (q_bnc, k_bnc, v_bnc))
        turned_q, turned_k = (self.split_heads(_turn(t, angles_nj)) for t in (q_bnc, k_bnc))
        out = divide(turned_q @ (turned_k.transpose(-2, -1) @ v), q @ k.sum(dim=-2).unsqueeze(-1))
        out = self.merge_heads(out)
        if self.conv is not None:
            v_bnc = v_bnc if bias is None else v_bnc * presence_bn1
            out = out + convolve_patches(self.conv, v_bnc, self.grid_size, self.num_prefix_tokens)
        if self.gate is not None:
            out = out * F.silu(self.gate(x))
        return self.proj_drop(self.proj(out))

    def _angles(self, x: Tensor) -> Tensor:
        """The angle of each token and pair of channels, [N, C/2]; in float32 at least, as positions are large."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        pairs = self.dim // 4
        speeds = 10000 ** (-torch.arange(pairs, device=x.device, dtype=dtype) / pairs)
        rows, columns = (torch.arange(size, device=x.device, dtype=dtype) for size in self.grid_size)
        of_rows = (rows[:, None, None] * speeds).expand(-1, len(columns), -1)
        of_columns = (columns[:, None] * speeds).expand(len(rows), -1, -1)
        patches_pj = torch.cat([of_rows, of_columns], dim=-1).flatten(0, 1)
        return F.pad(patches_pj, (0, 0, self.num_prefix_tokens, 0))


def _turn(x: Tensor, angles_nj: Tensor) -> Tensor:
    """Channels 2j and 2j + 1 of tokens [B, N, C] turned by the angle j of each token."""
    cos, sin = angles_nj.cos().to(x.dtype), angles_nj.sin().to(x.dtype)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
