"""Additive attention: two global vectors in place of a token-by-token map.

Source:
    Wu et al., "Fastformer: Additive Attention Can Be All You Need", arXiv:2108.09084, equations 1-6;
    inside a ViT: Wen et al., "FViT", IEEE CAI 2024.

Per head, with q = W_q x + b_q, k = W_k x + b_k and the value shared with the query:

    α = softmax_N(logit_q(q) / √d)      q̄ = Σ_n α_n q_n       (one global query)
    p_n = q̄ ⊙ k_n
    β = softmax_N(logit_k(p) / √d)      k̄ = Σ_n β_n p_n       (one global key)
    out_n = W_t (k̄ ⊙ q_n) + b_t + q_n

Cost: O(N·D) besides the three projections; no N×N map exists. There is no output projection, and the residual
"+ q" (the projected query) is inside the mechanism. Both softmaxes run over tokens, so a bias on the logits could
change nothing and there is none. k̄ pools p, not k.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.registry import register


@register("additive")
class Additive(Mechanism):
    """Fastformer's additive attention; the defaults are FViT's.

    Args:
        dim: width D.
        num_heads: number of heads H, d = D / H.
        qkv_bias: biases b_q, b_k (and b_v).
        attn_drop: dropout on α and β.
        proj_drop: dropout on the output.
        logits: ``per_head``, one d-vector a head (the paper's formula, and the one whose count matches FViT's table);
            ``full``, a D→H linear map over all heads (the authors' released code).
        value: ``shared``, the query is the value (the paper); ``separate``, v = W_v x + b_v in place of the q that is
            multiplied by k̄.
        proj: add an output projection, which the paper does not have.
        form: how the formula is evaluated; ``textbook`` follows it line by line.

    Raises:
        ValueError: an option is not one of those named; a mask between pairs of tokens, or causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        logits: Literal["per_head", "full"] = "per_head",
        value: Literal["shared", "separate"] = "shared",
        proj: bool = False,
        form: Literal["textbook"] = "textbook",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, **host)
        self.refuse_host_options(**host)
        _check_choice("logits", logits, ("per_head", "full"))
        _check_choice("value", value, ("shared", "separate"))
        _check_choice("form", form, ("textbook",))
        factory = dict(device=device, dtype=dtype)
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **factory)
        self.k = nn.Linear(dim, dim, bias=qkv_bias, **factory)
        self.v = nn.Linear(dim, dim, bias=qkv_bias, **factory) if value == "separate" else None
        logit_shape = (num_heads, self.head_dim if logits == "per_head" else dim)
        self.query_logit = nn.Parameter(torch.empty(logit_shape, **factory))
        self.key_logit = nn.Parameter(torch.empty(logit_shape, **factory))
        self.transform = nn.Linear(dim, dim, **factory)
        self.proj = nn.Linear(dim, dim, **factory) if proj else nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)
        self.logits, self.form = logits, form
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the logit vectors as timm draws Linears: truncated normal, σ = 0.02."""
        for weight in (self.query_logit, self.key_logit):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        bias = self.key_bias(attn_mask, x)
        q_bnc, k_bnc = self.q(x), self.k(x)
        v_bnc = q_bnc if self.v is None else self.v(x)
        global_query_bc = self._pool(q_bnc, self.query_logit, bias)
        p_bnc = global_query_bc.unsqueeze(1) * k_bnc
        global_key_bc = self._pool(p_bnc, self.key_logit, bias)
        out = self.transform(global_key_bc.unsqueeze(1) * v_bnc) + q_bnc
        return self.proj_drop(self.proj(out))

    def _pool(self, tokens_bnc: Tensor, logit_weight: Tensor, bias: Tensor | None) -> Tensor:
        """Σ_n softmax_N(logit(t_n) / √d) t_n head by head, [B, N, C] -> [B, C]."""
        tokens_bhnd = self.split_heads(tokens_bnc)
        if self.logits == "per_head":
            logits_bhn = torch.einsum("bhnd,hd->bhn", tokens_bhnd, logit_weight)
        else:
            logits_bhn = torch.einsum("bnc,hc->bhn", tokens_bnc, logit_weight)
        logits_bhn = logits_bhn * self.scale
        if bias is not None:
            logits_bhn = logits_bhn + bias
        weights_bhn = self.attn_drop(logits_bhn.softmax(dim=-1))
        return torch.einsum("bhn,bhnd->bhd", weights_bhn, tokens_bhnd).flatten(1)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"additive: {option}={value!r} is none of {', '.join(choices)}")
