"""Hydra attention: with as many heads as channels, attention is an element-wise product with one global vector.

Source: Bolya et al., "Hydra Attention: Efficient Attention with Many Heads", arXiv:2209.07484.

    out_n = q̂_n ⊙ Σ_m k̂_m ⊙ v_m,      q̂ = q / ‖q‖, k̂ = k / ‖k‖

The norms are over all channels of a token (cosine similarity as the kernel). There is no normaliser, so the sum grows
with the number of tokens. `num_heads` has no effect.

Cost: O(N·D) besides the four projections.

Family: linear.
"""

from torch import Tensor

from fvit.attention.ops import unit
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("hydra")
class HydraAttention(Projected):
    """Hydra attention. Arguments as for `Projected`; `attn_drop` applies to k̂."""

    adds_conv = True

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        q_bnc, k_bnc, v_bnc = self.qkv(x).chunk(3, dim=-1)
        q_bnc, k_bnc = unit(q_bnc, dim=-1), unit(k_bnc, dim=-1)
        factor_bn1 = self.mask_factor(attn_mask, x)
        if factor_bn1 is not None:
            k_bnc = k_bnc * factor_bn1
        global_b1c = (self.attn_drop(k_bnc) * v_bnc).sum(dim=1, keepdim=True).to(v_bnc.dtype)
        out, v = self.split_heads(q_bnc * global_b1c), self.split_heads(v_bnc)
        return self.output(self.add_conv(out, v, attn_mask))
