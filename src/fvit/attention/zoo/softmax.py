"""Softmax attention through torch's fused kernels.

Source: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, equation 1; in a ViT: Dosovitskiy et al.,
arXiv:2010.11929.

    out = softmax(QKᵀ/√d) V

Cost: O(N²·D) besides the four projections.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import refuse_mask_and_causality, softmax_map
from fvit.attention.registry import register


@register("softmax")
class Softmax(Mechanism):
    """softmax(QKᵀ/√d) V, with the parameter names of timm's Attention, so that its checkpoints load.

    Args:
        dim: width D.
        num_heads: number of heads H, d = D / H.
        qkv_bias: biases of the joint projection.
        attn_drop: dropout on the attention map.
        proj_drop: dropout on the output.
        qk_norm: normalise queries and keys with `norm_layer`, as some timm hosts do.
        proj_bias: bias of the output projection.
        norm_layer: the class used by `qk_norm`.
    """

    takes_pair_mask = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        qk_norm: bool = False,
        proj_bias: bool = True,
        norm_layer: type[nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(
            dim, num_heads, qkv_bias, attn_drop, proj_drop, qk_norm=qk_norm, proj_bias=proj_bias, norm_layer=norm_layer
        )
        self.refuse_host_options(**host)
        factory = dict(device=device, dtype=dtype)
        norm = norm_layer or nn.LayerNorm
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.q_norm = norm(self.head_dim, **factory) if qk_norm else nn.Identity()
        self.k_norm = norm(self.head_dim, **factory) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **factory)
        self.proj_drop = nn.Dropout(proj_drop)
        self.attn_drop = attn_drop

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` broadcasts to [B, H, N, N]."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self._attend(q, k, v, attn_mask, is_causal)

    def first(self, x: Tensor, count: int, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As `Mechanism.first`: keys and values of all tokens, queries of `count`."""
        if attn_mask is not None and attn_mask.ndim > 1 and attn_mask.shape[-2] > 1:
            attn_mask = attn_mask[..., :count, :]
        q_weight, kv_weight = self.qkv.weight.tensor_split([self.dim])
        q_bias, kv_bias = (None, None) if self.qkv.bias is None else self.qkv.bias.tensor_split([self.dim])
        k, v = F.linear(x, kv_weight, kv_bias).chunk(2, dim=-1)
        # A causal map is aligned at its upper left corner: its first rows are those of the whole one.
        return self._attend(F.linear(x[:, :count], q_weight, q_bias), k, v, attn_mask, is_causal)

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """As `Mechanism.weights`: the ``map``."""
        q, k, _ = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        return {"map": softmax_map(self.q_norm(q), self.k_norm(k), attn_mask, is_causal)}

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        """q [B, M, C], k and v [B, N, C] to [B, M, C]."""
        refuse_mask_and_causality(attn_mask, is_causal)
        q, k, v = (self.split_heads(t) for t in (q, k, v))
        out_bhnd = F.scaled_dot_product_attention(
            self.q_norm(q),
            self.k_norm(k),
            v,
            attn_mask=attn_mask,
            dropout_p=self.attn_drop if self.training else 0.0,
            is_causal=is_causal,
        )
        return self.proj_drop(self.proj(self.merge_heads(out_bhnd)))
