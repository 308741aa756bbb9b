"""Separable self-attention: one softmax over tokens and one context vector for all of them.

Source: Mehta and Rastegari, "Separable Self-attention for Mobile Vision Transformers", arXiv:2206.02680 (MobileViTv2).

    s = softmax_N(x w_I)      c = Σ_n s_n x_n W_K      out_n = (ReLU(x_n W_V) ⊙ c) W_O

Cost: O(N·D) besides the three D×D projections, of which W_K is of one vector, (Σ_n s_n x_n) W_K. There is one head, as
in the paper: w_I has one column and c is shared by all channels' scores, so `num_heads` changes nothing. The softmax
runs over tokens, so a bias on the logits could change nothing and there is none.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import project_sums
from fvit.attention.registry import register


@register("separable")
class Separable(Mechanism):
    """Separable self-attention. Arguments as for `Mechanism`; `attn_drop` falls on the scores s.

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
        self.logit = nn.Linear(dim, 1, bias=False, **factory)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias, **factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **factory)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        bias = self.key_bias(attn_mask, x)
        logits_b1n = self.logit(x).transpose(-2, -1)
        if bias is not None:
            logits_b1n = logits_b1n + bias
        scores_b1n = self.attn_drop(logits_b1n.softmax(dim=-1))
        return self.proj_drop(self.proj(self._meet(x, scores_b1n)))

    def _meet(self, x: Tensor, scores_b1n: Tensor) -> Tensor:
        """ReLU(x W_V) ⊙ c, [B, N, C]."""
        if self.form == "textbook":
            k_bnc, v_bnc = self.kv(x).chunk(2, dim=-1)
            return F.relu(v_bnc) * (scores_b1n @ k_bnc)
        k_weight, v_weight = self.kv.weight.chunk(2)
        k_bias, v_bias = (None, None) if self.kv.bias is None else self.kv.bias.chunk(2)
        return F.relu(F.linear(x, v_weight, v_bias)) * project_sums(scores_b1n, x, k_weight, k_bias)
