"""Additive attention (Fastformer): two global vectors instead of a token-by-token map.

Source:
    Wu et al., "Fastformer: Additive Attention Can Be All You Need", arXiv:2108.09084, equations 1-6;
    inside a ViT: Wen et al., "FViT", IEEE CAI 2024.

    α = softmax_N(w_q·q / √d)      q̄ = Σ_n α_n q_n      per head
    p_n = q̄ ⊙ k_n
    β = softmax_N(w_k·p / √d)      k̄ = Σ_n β_n p_n      per head
    out_n = W_t (k̄ ⊙ q_n) + b_t + q_n

Cost: O(N·D) besides the three projections.

Family: additive.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import cast_once
from fvit.attention.registry import register


def fastformer(attn: "AdditiveAttention", x: Tensor, bias: Tensor | None) -> Tensor:
    """Equations 1 to 6 for tokens x [B, N, C]; `bias` [B or 1, 1, N] masks keys."""
    q, k = attn.q(x), attn.k(x)
    v = q if attn.v is None else attn.v(x)  # in the paper, the query is also the value
    alpha = token_softmax(attn, q, attn.query_logit, bias)
    global_query = weighted_sum(attn, alpha, q)
    p = global_query * k
    beta = token_softmax(attn, p, attn.key_logit, bias)
    global_key = weighted_sum(attn, beta, p)
    return attn.proj(attn.transform(global_key * v) + q)


def token_softmax(attn: "AdditiveAttention", tokens: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """softmax_N(w·t / √d) per head, [B, N, C] -> [B, H, N]; over tokens, so w needs no bias."""
    if attn.logits == "full":
        return _softmax(w @ tokens.mT, bias, attn.scale)
    return _softmax(torch.einsum("bhnd,hd->bhn", attn.split_heads(tokens), w), bias, attn.scale)


def weighted_sum(attn: "AdditiveAttention", weights: Tensor, tokens: Tensor) -> Tensor:
    """Σ_n weights_n t_n per head, with dropout: [B, H, N] and [B, N, C] -> [B, 1, C]."""
    pooled = torch.einsum("bhn,bhnd->bhd", attn.attn_drop(weights), attn.split_heads(tokens))
    return pooled.flatten(1).unsqueeze(1)


@register("additive")
class AdditiveAttention(Mechanism):
    """Fastformer's additive attention; the defaults are FViT's.

    The value is the query, as in the paper, and there is no output projection: the residual "+ q" is part of the
    mechanism, and k̄ pools p, not k. `fastformer` evaluates the equations as written; `factored` and `folded` are
    the same function in fewer MACs. Other arguments as for `Mechanism`; `attn_drop` applies to α and β.

    Args:
        logits: ``per_head``, one d-vector per head (the paper's formula, whose parameter count matches FViT's table);
            ``full``, a D→H linear map over all heads (the authors' code).
        value: ``shared``, the query is the value (the paper); ``separate``, v = W_v x + b_v replaces the q that is
            multiplied by k̄.
        proj: add an output projection, which the paper does not have.
        form: order of evaluation; ``auto`` selects the fastest for the number of tokens and the kind of device.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        logits: Literal["per_head", "full"] = "per_head",
        value: Literal["shared", "separate"] = "shared",
        proj: bool = False,
        form: Literal["auto", "textbook", "factored", "folded"] = "auto",
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        _check_choice("logits", logits, ("per_head", "full"))
        _check_choice("value", value, ("shared", "separate"))
        _check_choice("form", form, ("auto", "textbook", "factored", "folded"))
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.k = nn.Linear(dim, dim, bias=qkv_bias, **self.factory)
        self.v = nn.Linear(dim, dim, bias=qkv_bias, **self.factory) if value == "separate" else None
        logit_shape = (num_heads, self.head_dim if logits == "per_head" else dim)
        self.query_logit = nn.Parameter(torch.empty(logit_shape, **self.factory))
        self.key_logit = nn.Parameter(torch.empty(logit_shape, **self.factory))
        self.transform = nn.Linear(dim, dim, **self.factory)
        self.proj = nn.Linear(dim, dim, **self.factory) if proj else nn.Identity()
        self.logits, self.form = logits, form
        self.init_weights()

    def init_weights(self) -> None:
        for weight in (self.query_logit, self.key_logit):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        compiled = torch.compiler.is_compiling()
        form = self.fastest_form(x.shape[1], x.device.type, compiled) if self.form == "auto" else self.form
        evaluate = {"textbook": fastformer, "factored": factored, "folded": folded}[form]
        return self.proj_drop(evaluate(self, cast_once(x), self.key_bias(attn_mask, x)))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """α as ``query`` and β as ``key``, the same in every form."""
        self.refuse_causal(is_causal)
        bias = self.key_bias(attn_mask, x)
        q = self.q(x)
        alpha = token_softmax(self, q, self.query_logit, bias)
        p = weighted_sum(self, alpha, q) * self.k(x)
        return {"query": alpha, "key": token_softmax(self, p, self.key_logit, bias)}

    def fastest_form(self, tokens: int, device: str = "cpu", compiled: bool = False) -> str:
        """The form that ``auto`` takes for images of `tokens` tokens on a kind of device; never ``textbook``.

        ``folded`` builds one matrix per image in place of `projections` products with all tokens. On a CPU the MACs
        decide: N·D² for each product saved, against D³. On CUDA what is read and written does: in proportion to
        N·D for each product, against D² for the matrix, at the ratio of `FOLD_FROM`.
        """
        projections = 2 + (self.v is not None) + isinstance(self.proj, nn.Linear)
        if device == "cuda":
            least = FOLD_FROM["compiled" if compiled else "eager"] * 2 / projections
        else:
            least = 1 / (projections - 1)
        return "folded" if tokens > least * self.dim else "factored"


# The same function in fewer MACs. Constants added to all logits of a softmax cancel.

FOLD_FROM = {"eager": 2.0, "compiled": 1.25}
"""The N / D from which ``folded`` is faster than ``factored`` on CUDA, with the paper's two projections.

A model of the bytes that bf16 autocast moves, no measurement: `make gpu-check` measures the forms, and says where this
is wrong. ``form=factored`` or ``folded`` overrides it.
"""


def factored(attn: AdditiveAttention, x: Tensor, bias: Tensor | None) -> Tensor:
    """Without keys: only W_q and W_t are applied to all tokens.

    The logits of p are (W_kᵀ (q̄ ⊙ w_k))·x + const, and k̄ = q̄ ⊙ (W_k Σ_n β_n x_n + b_k), per head.
    """
    q = attn.q(x)
    v = q if attn.v is None else attn.v(x)
    global_query = weighted_sum(attn, token_softmax(attn, q, attn.query_logit, bias), q)
    return attn.proj(attn.transform(_global_key(attn, global_query, x, bias) * v) + q)


def folded(attn: AdditiveAttention, x: Tensor, bias: Tensor | None) -> Tensor:
    """Without queries either: out_n = M x_n + c with M = (W_t diag(k̄) + I) W_q per image, which takes D³ to build."""
    global_query = _project_sum(attn, x, attn.q, _pull_back(attn, attn.q, attn.query_logit), bias)
    global_key = _global_key(attn, global_query, x, bias)
    value = attn.q if attn.v is None else attn.v
    transform, residual = (layer.weight.to(x.dtype) for layer in (attn.transform, attn.q))
    offset = attn.transform.bias if attn.q.bias is None else attn.transform.bias + attn.q.bias
    if isinstance(attn.proj, nn.Linear):
        transform, residual, offset = attn.proj.weight @ transform, attn.proj.weight @ residual, attn.proj(offset)
    matrix = (transform * global_key) @ value.weight + residual
    offset = offset if value.bias is None else (global_key * value.bias) @ transform.mT + offset
    return torch.baddbmm(offset.expand(x.shape[0], 1, -1), x, matrix.mT)


def _global_key(attn: AdditiveAttention, global_query: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """k̄ [B, 1, C] from q̄ [B, 1, C] and the tokens, without projecting these to keys."""
    rows = global_query.unflatten(-1, (attn.num_heads, -1)).squeeze(1) if attn.logits == "per_head" else global_query
    return global_query * _project_sum(attn, x, attn.k, _pull_back(attn, attn.k, rows * attn.key_logit), bias)


def _pull_back(attn: AdditiveAttention, layer: nn.Linear, rows: Tensor) -> Tensor:
    """Vectors that multiply the outputs of `layer`, [… H, d] or [… H, C], as vectors that multiply its inputs."""
    if attn.logits == "full":
        return rows @ layer.weight
    return torch.einsum("...hd,hdc->...hc", rows, layer.weight.unflatten(0, (attn.num_heads, -1)))


def _project_sum(attn: AdditiveAttention, x: Tensor, layer: nn.Linear, rows: Tensor, bias: Tensor | None) -> Tensor:
    """Σ_n softmax_N(rows·x_n / √d) layer(x_n) per head, [B, 1, C]: summed first, then projected."""
    weights = attn.attn_drop(_softmax(rows @ x.mT, bias, attn.scale))
    pooled = torch.einsum("bhc,hdc->bhd", weights @ x, layer.weight.unflatten(0, (attn.num_heads, -1)))
    if layer.bias is not None:
        # After dropout the weights do not sum to 1.
        pooled = pooled + weights.sum(dim=-1, keepdim=True) * layer.bias.unflatten(0, (attn.num_heads, -1))
    return pooled.flatten(1).unsqueeze(1).to(x.dtype)


def _softmax(logits: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """softmax_N(scale · logits + bias), [B, H, N]."""
    logits = logits * scale
    return (logits if bias is None else logits + bias).softmax(dim=-1)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"additive: {option}={value!r} must be one of {', '.join(choices)}")
