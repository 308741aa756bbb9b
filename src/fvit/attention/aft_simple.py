"""Attention-free transformer without position biases: keys alone weigh the tokens, channel by channel.

Source: Zhai et al., "An Attention Free Transformer", arXiv:2105.14103 (AFT-simple).

    out_n = W_o (σ(q_n) ⊙ Σ_m softmax_N(K)_m ⊙ v_m)

The softmax runs over tokens, for each channel. All channels are heads, so `num_heads` changes nothing. The output
projection is that of the attention which AFT replaces.

Cost: O(N·D) besides the four projections.
"""

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.registry import register


@register("aft_simple")
class AftSimple(Mechanism):
    """AFT-simple. Arguments as for `Mechanism`; `attn_drop` falls on the softmax of the keys.

    Raises:
        ValueError: a mask between pairs of tokens, or causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias=proj_bias, **host)
        self.refuse_host_options(**host)
        factory = dict(device=device, dtype=dtype)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **factory)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            k_bnc = k_bnc + bias.transpose(1, 2)
        weights_bnc = self.attn_drop(k_bnc.softmax(dim=1))
        global_b1c = (weights_bnc * v_bnc).sum(dim=1, keepdim=True)
        return self.proj_drop(self.proj(q_bnc.sigmoid() * global_b1c))
