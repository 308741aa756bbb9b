"""Linear attention: a kernel replaces the softmax, so that the sum over keys is shared by all queries.

Source: Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236, equations 4-7.

    out_n = φ(q_n) Σ_m φ(k_m)ᵀ v_m / (φ(q_n) Σ_m φ(k_m)),      φ = elu + 1

Cost: O(N·D·d) besides the four projections.

Family: linear.
"""

import torch.nn.functional as F
from torch import Tensor

from fvit.attention.ops import kernel_average
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("linear")
class LinearAttention(Projected):
    """Linear attention with φ = elu + 1. Arguments as for `Projected`; `attn_drop` applies to φ(k)."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if bias is not None:
            k = k * bias.exp().unsqueeze(-1)
        return kernel_average(q, self.attn_drop(k), v)
