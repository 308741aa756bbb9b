"""cosFormer: linear attention with ReLU features, in which near tokens weigh more by a cosine.

Source: Qin et al., "cosFormer: Rethinking Softmax in Attention", arXiv:2202.08791.

    out_i = Σ_j s_ij v_j / Σ_j s_ij,      s_ij = ReLU(q_i) · ReLU(k_j) cos(π (i − j) / 2M)

By cos(a − b) = cos a cos b + sin a sin b, s is a product of features twice as wide and need not be built. Positions
run along the tokens as they lie, prefix first and then row by row, and M is their number; the paper leaves M to be at
least that. Masked tokens do not count, neither in M nor in the positions, so that they are as if absent. A query that
meets no key gets 0.

Cost: O(N·D·2d) besides the four projections.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fvit.attention.ops import kernel_average
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("cosformer")
class Cosformer(Projected):
    """cosFormer. Arguments as for `Projected`; `attn_drop` falls on the features of the keys.

    Raises:
        ValueError: a mask between pairs of tokens, or causality, is asked for.
    """

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q, k, v [B, H, N, d] to [B, H, N, d]."""
        q, k = F.relu(q), F.relu(k)
        if bias is not None:
            k = k * bias.exp().unsqueeze(-1)
        angle = self._angles(q, bias).unsqueeze(-1)
        cos, sin = angle.cos().to(v.dtype), angle.sin().to(v.dtype)
        q, k = (torch.cat([features * cos, features * sin], dim=-1) for features in (q, self.attn_drop(k)))
        return kernel_average(q, k, v)

    @staticmethod
    def _angles(q: Tensor, bias: Tensor | None) -> Tensor:
        """π i / 2M for each token, [B or 1, 1, N]; in float32 at least, since positions are large for bfloat16."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        present = q.new_ones((1, 1, q.shape[-2]), dtype=torch.bool) if bias is None else bias.exp() > 0
        count = present.sum(dim=-1, keepdim=True).clamp(min=1)
        return present.cumsum(dim=-1).to(dtype) * (math.pi / 2) / count
