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

The same function takes fewer products where they are ordered otherwise (`form`):

    textbook   as above: three D×D projections of all tokens
    factored   no keys: logits and pools of k are x (W_kᵀ …) and W_k (Σ_n β_n x_n) + b_k; two projections are left
    folded     no queries either: out_n = M x_n + c with M = (W_t diag(k̄) + I) W_q, one for all tokens of an image;
               one projection, and D³ to build M
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fvit.attention.attend import attend, weigh
from fvit.attention.base import Mechanism
from fvit.attention.cache import WeightCache
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
        form: how the formula is evaluated, see above; ``auto`` is by size, whichever takes the fewest products.

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
        form: Literal["auto", "textbook", "factored", "folded"] = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, **host)
        self.refuse_host_options(**host)
        _check_choice("logits", logits, ("per_head", "full"))
        _check_choice("value", value, ("shared", "separate"))
        _check_choice("form", form, ("auto", "textbook", "factored", "folded"))
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
        self._cache = WeightCache()
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the logit vectors as timm draws Linears: truncated normal, σ = 0.02."""
        for weight in (self.query_logit, self.key_logit):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        bias = self.key_bias(attn_mask, x)
        form = self.cheapest_form(x.shape[1]) if self.form == "auto" else self.form
        evaluate = {"textbook": self._textbook, "factored": self._factored, "folded": self._folded}[form]
        return self.proj_drop(evaluate(x, bias))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """As `Mechanism.weights`: α as ``query`` and β as ``key``, the same in every form."""
        self.refuse_causal(is_causal)
        bias = self.key_bias(attn_mask, x)
        key_rows_bhc = self._key_rows(self._global_query(x, bias)[0])
        return {
            "query": weigh(self._query_rows() @ x.mT, bias, self.scale),
            "key": weigh(key_rows_bhc @ x.mT, bias, self.scale),
        }

    def cheapest_form(self, tokens: int) -> str:
        """The form that needs the fewest multiplications for images of `tokens` tokens; `textbook` never does."""
        # In units of D² a token: a projection each, against one matrix for all of them and D³ to build it.
        projections = 2 + (self.v is not None) + isinstance(self.proj, nn.Linear)
        return "folded" if 1 + self.dim / tokens < projections else "factored"

    def _textbook(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Line by line."""
        q_bnc, k_bnc = self.q(x), self.k(x)
        p_bnc = self._pool(q_bnc, self.query_logit, bias).unsqueeze(1) * k_bnc
        return self._meet(x, q_bnc, self._pool(p_bnc, self.key_logit, bias))

    def _factored(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Without keys: what is asked of them is asked of the tokens."""
        q_bnc = self.q(x)
        global_key_bc, x = self._global_key(self._pool(q_bnc, self.query_logit, bias), x, bias)
        return self._meet(x, q_bnc, global_key_bc)

    def _folded(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Without queries either: out = M x + c, with M = W_t diag(k̄) W_v + W_q, image by image."""
        key_bc, x = self._global_key(*self._global_query(x, bias), bias)
        value = self.q if self.v is None else self.v
        transform, residual, offset = self._products()
        matrix_bcc = (transform * key_bc.unsqueeze(1)) @ value.weight + residual
        offset_bc = offset if value.bias is None else (key_bc * value.bias) @ transform.mT + offset
        return torch.baddbmm(offset_bc.unsqueeze(-2).expand(x.shape[0], 1, -1), x, matrix_bcc.mT)

    def _products(self) -> tuple[Tensor, Tensor, Tensor]:
        """W_o W_t, W_o W_q and W_o (b_t + b_q) + b_o: what depends on weights alone; W_o is `proj`, or nothing."""
        offset = self.transform.bias if self.q.bias is None else self.transform.bias + self.q.bias
        if isinstance(self.proj, nn.Identity):
            return self.transform.weight, self.q.weight, offset
        out = self.proj

        def multiply() -> tuple[Tensor, Tensor, Tensor]:
            return out.weight @ self.transform.weight, out.weight @ self.q.weight, out(offset)

        return self._cache.get(multiply, out.weight, self.transform.weight, self.q.weight, offset, out.bias)

    def _meet(self, x: Tensor, q_bnc: Tensor, global_key_bc: Tensor) -> Tensor:
        """W_t (k̄ ⊙ v) + b_t + q, and the output projection, for tokens x and their queries."""
        v_bnc = q_bnc if self.v is None else self.v(x)
        return self.proj(self.transform(global_key_bc.unsqueeze(1) * v_bnc) + q_bnc)

    def _global_query(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """q̄ [B, C] from the tokens themselves, no query is made; and the tokens, as `attend` gives them back."""
        return self._pool_unprojected(x, self.q, self._query_rows(), bias)

    def _global_key(self, global_query_bc: Tensor, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """k̄ [B, C] from the tokens themselves, no key is made; and the tokens, as `attend` gives them back."""
        pooled_bc, x = self._pool_unprojected(x, self.k, self._key_rows(global_query_bc), bias)
        return global_query_bc * pooled_bc, x

    def _query_rows(self) -> Tensor:
        """What meets tokens in the logits of α, [H, C].

        Of weights alone, and yet not kept between forward passes: at 384 channels the product takes 24 µs on one core,
        and to see that its factors are still the same 116 µs (`WeightCache`); at 768, 0.1 ms against 0.5.
        """
        return self._through(self.q, self.query_logit)

    def _key_rows(self, global_query_bc: Tensor) -> Tensor:
        """What meets tokens in the logits of β, [B, H, C]."""
        rows = self._per_head(global_query_bc) if self.logits == "per_head" else global_query_bc.unsqueeze(1)
        return self._through(self.k, rows * self.key_logit)

    def _through(self, layer: nn.Linear, rows: Tensor) -> Tensor:
        """Vectors that meet the outputs of `layer`, [… H, d] or [… H, C], as vectors that meet its inputs, [… H, C]."""
        if self.logits == "full":
            return rows @ layer.weight
        return torch.einsum("...hd,hdc->...hc", rows, layer.weight.unflatten(0, (self.num_heads, -1)))

    def _pool_unprojected(
        self, x: Tensor, layer: nn.Linear, rows: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Σ_n softmax_N(rows·x_n / √d) layer(x_n) head by head, [B, C]: pooled first, and projected once; and x."""
        dropout = self.attn_drop.p if self.training else 0.0
        pooled_bhc, weights_bhn, x = attend(rows, x, bias, self.scale, dropout)
        pooled_bhd = torch.einsum("bhc,hdc->bhd", pooled_bhc, layer.weight.unflatten(0, (self.num_heads, -1)))
        if layer.bias is not None:
            # Dropout leaves weights that do not sum to 1.
            pooled_bhd = pooled_bhd + weights_bhn.sum(dim=-1, keepdim=True) * self._per_head(layer.bias)
        return pooled_bhd.flatten(1), x

    def _pool(self, tokens_bnc: Tensor, logit_weight: Tensor, bias: Tensor | None) -> Tensor:
        """Σ_n softmax_N(logit(t_n) / √d) t_n head by head, [B, N, C] -> [B, C]."""
        tokens_bhnd = self.split_heads(tokens_bnc)
        if self.logits == "per_head":
            logits_bhn = torch.einsum("bhnd,hd->bhn", tokens_bhnd, logit_weight)
        else:
            logits_bhn = logit_weight @ tokens_bnc.mT
        weights_bhn = self.attn_drop(weigh(logits_bhn, bias, self.scale))
        return torch.einsum("bhn,bhnd->bhd", weights_bhn, tokens_bhnd).flatten(1)

    def _per_head(self, channels: Tensor) -> Tensor:
        """[…, C] -> […, H, d]."""
        return channels.unflatten(-1, (self.num_heads, self.head_dim))


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"additive: {option}={value!r} is none of {', '.join(choices)}")
