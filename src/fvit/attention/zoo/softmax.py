"""Softmax attention, through torch's fused kernels.

Source: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, equation 1; in a ViT: Dosovitskiy et al.,
arXiv:2010.11929.

    out = softmax(QKᵀ/√d) V

Cost: O(N²·D) besides the four projections.
"""

from typing import Any

from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import refuse_mask_and_causality, softmax_map
from fvit.attention.registry import register


@register("softmax")
class SoftmaxAttention(Mechanism):
    """Softmax attention with the parameter names of timm's Attention, whose checkpoints load into it.

    Other arguments as for `Mechanism`; `attn_drop` applies to the attention map.

    Args:
        qk_norm: normalise queries and keys with `norm_layer`, as some timm hosts do.
        proj_bias: bias of the output projection.
        norm_layer: class of the norms; LayerNorm if None.
    """

    takes_pair_mask = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        *,
        qk_norm: bool = False,
        proj_bias: bool = True,
        norm_layer: type[nn.Module] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(
            dim, num_heads, qkv_bias, qk_norm=qk_norm, proj_bias=proj_bias, norm_layer=norm_layer, **shared
        )
        norm = norm_layer or nn.LayerNorm
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **self.factory)
        self.q_norm = norm(self.head_dim, **self.factory) if qk_norm else nn.Identity()
        self.k_norm = norm(self.head_dim, **self.factory) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **self.factory)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        refuse_mask_and_causality(attn_mask, is_causal)
        q, k, v = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        out_bhnd = self.sdpa(self.q_norm(q), self.k_norm(k), v, attn_mask, is_causal=is_causal)
        return self.proj_drop(self.proj(self.merge_heads(out_bhnd)))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        q, k, _ = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        return {"map": softmax_map(self.q_norm(q), self.k_norm(k), attn_mask, is_causal)}
