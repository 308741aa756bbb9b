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
        refuse_mask_and_causality(attn_mask, is_causal)
        q, k, v = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        out_bhnd = F.scaled_dot_product_attention(
            self.q_norm(q),
            self.k_norm(k),
            v,
            attn_mask=attn_mask,
            dropout_p=self.attn_drop if self.training else 0.0,
            is_causal=is_causal,
        )
        return self.proj_drop(self.proj(self.merge_heads(out_bhnd)))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """As `Mechanism.weights`: the ``map``."""
        q, k, _ = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        return {"map": softmax_map(self.q_norm(q), self.k_norm(k), attn_mask, is_causal)}
