"""gMLP's spatial gating: one half of the channels gates the other after a linear map over the tokens.

Source: Liu et al., "Pay Attention to MLPs", arXiv:2105.08050, section 2 and figure 1.

    u, v = GELU(x U + b_U), halves of the channels      out = (u ⊙ (W LN(v) + b)) V + b_V

W [N, N] and b [N] act on the tokens; W starts near 0 and b at 1, so training starts from a plain MLP.

In gMLP this block replaces both attention and MLP. Here it replaces attention alone; the norm before it, the residual
and another MLP belong to the host. So u and v each have the width of the tokens by default, which takes three quarters
of the MACs of attention's projections; `mlp_ratio` = 6 is the paper's width. There are no heads and no attention map,
so `num_heads` and `attn_drop` have no effect.

Cost: O(N²·D) besides the projections. A mask of b multiplies a token's column of W by exp(b).

Family: MLP.
"""

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
from fvit.attention.norms import LayerNorm
from fvit.attention.registry import register


@register("gmlp")
class GMLP(FixedLength):
    """gMLP's spatial gating between its two projections. Other arguments as for `Projected`.

    Args:
        mlp_ratio: width of u and v together, an even number, relative to the tokens' width.
    """

    token_axes: ClassVar = {"spatial.weight": (0, 1), "spatial.bias": (0,)}
    summed_axes: ClassVar = {"spatial.weight": (1,)}

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        proj_bias: bool = True,
        mlp_ratio: float = 2.0,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_bias=proj_bias, **shared)
        hidden = int(dim * mlp_ratio)
        if hidden < 2 or hidden % 2:
            raise ValueError(f"gmlp: mlp_ratio={mlp_ratio} gives {hidden} channels, not two equal halves; use 2 or 6")
        self.uv = nn.Linear(dim, hidden, bias=qkv_bias, **self.factory)
        self.norm = LayerNorm(hidden // 2, **self.factory)
        self.spatial = nn.Linear(1, 1, **self.factory)
        self.proj = nn.Linear(hidden // 2, dim, bias=proj_bias, **self.factory)

    def init_weights(self) -> None:
        """Start with a gate of 1: W near 0, b = 1."""
        nn.init.normal_(self.spatial.weight, std=1e-6)
        nn.init.ones_(self.spatial.bias)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        self.check_length(x)
        u_bnc, v_bnc = F.gelu(self.uv(x)).chunk(2, dim=-1)
        columns_bcn = self.norm(v_bnc).transpose(1, 2)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            columns_bcn = columns_bcn * bias.exp()
        gate_bnc = self.spatial(columns_bcn).transpose(1, 2)
        return self.proj_drop(self.proj(u_bnc * gate_bnc))
