"""cosFormer: linear attention with ReLU features, reweighted by the cosine of the distance between tokens.

Source: Qin et al., "cosFormer: Rethinking Softmax in Attention", arXiv:2202.08791.

    out_i = Σ_j s_ij v_j / Σ_j s_ij,      s_ij = ReLU(q_i) · ReLU(k_j) cos(π (i − j) / 2M)

Since cos(a − b) = cos a cos b + sin a sin b, s is an inner product of features of twice the width and is never built.
Positions run along the token sequence, prefix tokens first and then row by row; M is the number of tokens (the paper
allows any M of at least that). Masked tokens count neither for M nor for the positions, as if they were absent. A query
orthogonal to all keys gets 0.

Cost: O(N·D·2d) besides the four projections.

Family: linear.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fvit.attention.ops import kernel_average
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("cosformer")
class CosFormerAttention(Projected):
    """cosFormer's attention. Arguments as for `Projected`; `attn_drop` applies to the features of the keys."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k = F.relu(q), F.relu(k)
        if bias is not None:
            k = k * bias.exp().unsqueeze(-1)
        angle = self._angles(q, bias).unsqueeze(-1)
        cos, sin = angle.cos().to(v.dtype), angle.sin().to(v.dtype)
        q, k = (torch.cat([features * cos, features * sin], dim=-1) for features in (q, self.attn_drop(k)))
        return kernel_average(q, k, v)

    @staticmethod
    def _angles(q: Tensor, bias: Tensor | None) -> Tensor:
        """π i / 2M per token, [B or 1, 1, N]; in float32 at least, since bfloat16 cannot represent large positions."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        present = q.new_ones((1, 1, q.shape[-2]), dtype=torch.bool) if bias is None else bias.exp() > 0
        count = present.sum(dim=-1, keepdim=True).clamp(min=1)
        return present.cumsum(dim=-1).to(dtype) * (math.pi / 2) / count
