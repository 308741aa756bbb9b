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
from torch import Tensor, nn

from fvit.attention.base import Mechanism
from fvit.attention.ops import divide
from fvit.attention.registry import register


@register("cosformer")
class Cosformer(Mechanism):
    """cosFormer. Arguments as for `Mechanism`; `attn_drop` falls on the features of the keys.

    Raises:
        ValueError: a mask between pairs of tokens, or causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias=proj_bias, **host)
        self.refuse_host_options(**host)
        factory = dict(device=device, dtype=dtype)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **factory)
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **factory)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q, k, v = (self.split_heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        q, k = F.relu(q), F.relu(k)
        bias = self.key_bias(attn_mask, x)
        if bias is not None:
            k = k * bias.exp().unsqueeze(-1)
        angle = self._angles(x, bias).unsqueeze(-1)
        cos, sin = angle.cos().to(v.dtype), angle.sin().to(v.dtype)
        q, k = (torch.cat([features * cos, features * sin], dim=-1) for features in (q, self.attn_drop(k)))
        out_bhnd = divide(q @ (k.transpose(-2, -1) @ v), q @ k.sum(dim=-2).unsqueeze(-1))
        return self.proj_drop(self.proj(self.merge_heads(out_bhnd)))

    @staticmethod
    def _angles(x: Tensor, bias: Tensor | None) -> Tensor:
        """π i / 2M for each token, [B or 1, 1, N]; in float32 at least, since positions are large for bfloat16."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        present = x.new_ones((1, 1, x.shape[1]), dtype=torch.bool) if bias is None else bias.exp() > 0
        count = present.sum(dim=-1, keepdim=True).clamp(min=1)
        return present.cumsum(dim=-1).to(dtype) * (math.pi / 2) / count
