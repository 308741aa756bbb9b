"""Hydra attention: as many heads as channels, so that attention is one global vector and a product.

Source: Bolya et al., "Hydra Attention: Efficient Attention with Many Heads", arXiv:2209.07484.

    out_n = q̂_n ⊙ Σ_m k̂_m ⊙ v_m,      q̂ = q / ‖q‖, k̂ = k / ‖k‖

The lengths are taken over all channels of a token (the cosine similarity as kernel). There is no normaliser: the sum
grows with the number of tokens. `num_heads` changes nothing.

Cost: O(N·D) besides the four projections.
"""

from torch import Tensor

from fvit.attention.ops import unit
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("hydra")
class Hydra(Projected):
    """Hydra attention. Arguments as for `Projected`; `attn_drop` falls on k̂.

    Raises:
        ValueError: a mask between pairs of tokens, or causality, is asked for.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        # The lengths are those of all heads together.
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        q_bnc, k_bnc = unit(q_bnc, dim=-1), unit(k_bnc, dim=-1)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            k_bnc = k_bnc * bias.exp().transpose(1, 2)
        global_b1c = (self.attn_drop(k_bnc) * v_bnc).sum(dim=1, keepdim=True)
        return self.proj_drop(self.proj(q_bnc * global_b1c))
