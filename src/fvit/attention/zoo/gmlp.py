"""gMLP's spatial gating: half of the channels gates the other half, after a linear map over the tokens.

Source: Liu et al., "Pay Attention to MLPs", arXiv:2105.08050, section 2 and figure 1.

    u, v = GELU(x U + b_U), halves of the channels      out = (u ⊙ (W LN(v) + b)) V + b_V

W [N, N] acts on the tokens and b [N] is theirs; W starts near 0 and b at 1, so that training starts from a plain MLP.

gMLP has this block in place of both attention and MLP. Here it takes the place of attention alone: the norm before it,
the residual and another MLP are the host's. So u and v are each as wide as the tokens, which gives the block three
quarters of attention's projections; `mlp_ratio` = 6 is the paper's own width. There are no heads and there is no
attention map, so that `num_heads` and `attn_drop` change nothing.

Cost: O(N²·D) besides the projections. A mask of b weighs a token's column of W by exp(b).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.registry import register


@register("gmlp")
class GMLP(FixedLength):
    """gMLP's spatial gating between its two projections. Arguments as for `Mechanism`, and:

    Args:
        mlp_ratio: width of u and v together, in widths of the tokens.

    Raises:
        ValueError: `mlp_ratio` leaves no two equal halves; the tokens are not those of the layout; a mask between
            pairs of tokens, or causality, is asked for.
    """

    token_axes: ClassVar = {"spatial.weight": (0, 1), "spatial.bias": (0,)}
    summed_axes: ClassVar = {"spatial.weight": (1,)}

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        mlp_ratio: float = 2.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias=proj_bias, **host)
        self.refuse_host_options(**host)
        hidden = int(dim * mlp_ratio)
        if hidden < 2 or hidden % 2:
            raise ValueError(f"gmlp: mlp_ratio={mlp_ratio} makes {hidden} channels, which have no halves; take 2 or 6")
        factory = dict(device=device, dtype=dtype)
        self.uv = nn.Linear(dim, hidden, bias=qkv_bias, **factory)
        self.norm = nn.LayerNorm(hidden // 2, **factory)
        self.spatial = nn.Linear(1, 1, **factory)
        self.proj = nn.Linear(hidden // 2, dim, bias=proj_bias, **factory)
        self.proj_drop = nn.Dropout(proj_drop)

    def init_weights(self) -> None:
        """Start from a gate of 1: W near 0, b = 1."""
        nn.init.normal_(self.spatial.weight, std=1e-6)
        nn.init.ones_(self.spatial.bias)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        self.check_length(x)
        u_bnc, v_bnc = F.gelu(self.uv(x)).chunk(2, dim=-1)
        columns_bcn = self.norm(v_bnc).transpose(1, 2)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            columns_bcn = columns_bcn * bias.exp()
        gate_bnc = self.spatial(columns_bcn).transpose(1, 2)
        return self.proj_drop(self.proj(u_bnc * gate_bnc))
