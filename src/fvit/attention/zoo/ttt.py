"""Test-time training: keys and values train a small model, step by step of one gradient, which maps the queries.

Source: Han et al., "ViT³: Unlocking Test-Time Training in Vision", arXiv:2512.01643.

    out_n = W_o [f(q_n; W − clip(∇_W L)) [, f'(q'_n; W' − clip(∇_W' L'))]],      L = −Σ_n ⟨f(k_n; W), v_n⟩ / (3N)
    f(x; W) = (x W₁) ⊙ SiLU(x W₂)  per head      f'(x; W') = W' ∗ x,  a 3×3 depth-wise convolution
    clip(G) = G / (‖G‖ + 1)  per column of W₁ and W₂, or per kernel of W'

W and W' are learned, and where the one step of each image starts; its gradient is written out below. f' is one more
head of d channels with queries, keys and values of its own, on the patches only (`conv_head`); its output is 0 for
prefix tokens, and a hidden patch is zero to it, like the border. The factor 1/3 is that of the authors' code for both
models. There the projections of f' are joined to the others; here they are apart, so that `qkv` and `proj` load from
softmax attention.

Cost: O(N·D·d) besides the four projections; f' adds O(N·d·(D + 9)).

Family: test-time training.

Code: LeapLabTHU/ViTTT.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import cast_once, divide, token_shares
from fvit.attention.projected import Projected
from fvit.attention.registry import register

SCALE = 9**-0.5


@register("ttt")
class TestTimeTraining(Projected):
    """ViT³'s test-time training. Other arguments as for `Projected`; `attn_drop` applies to each token's part of ∇L.

    Args:
        conv_head: add the head whose model is a depth-wise convolution; needs the grid.
    """

    __test__ = False  # no test class, pytest
    adds_conv = True

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, *, conv_head: bool = False, **shared: Any
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, **shared)
        d = self.head_dim
        self.w1 = nn.Parameter(torch.empty(num_heads, d, d, **self.factory))
        self.w2 = nn.Parameter(torch.empty(num_heads, d, d, **self.factory))
        self.kernel = nn.Parameter(torch.empty(d, 1, 3, 3, **self.factory)) if conv_head else None
        self.conv_qkv = nn.Linear(dim, 3 * d, bias=qkv_bias, **self.factory) if conv_head else None
        self.conv_proj = nn.Linear(d, dim, bias=False, **self.factory) if conv_head else None
        self.needs_grid = self.needs_grid or conv_head
        self.init_weights()

    def init_weights(self) -> None:
        for weight in (self.w1, self.w2, self.kernel):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        bias, factor_bn1 = self.key_bias(attn_mask, x), self.mask_factor(attn_mask, x)
        x = cast_once(x)
        q, k, v = self.heads(x)
        out = self.add_conv(self.mix(q, k, v, bias), v, attn_mask)
        out = self.proj(self.merge_heads(out))
        if self.kernel is not None:
            out = out + self.conv_proj(self._convolve(x, factor_bn1))
        return self.proj_drop(out)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        z1, z2 = k @ self.w1, k @ self.w2
        # The gradient of L with respect to f(k_n): minus the value, times the token's share of the mean.
        error = self.attn_drop(token_shares(bias, v).unsqueeze(1).mT * -SCALE * v)
        gate = z2.sigmoid()
        step1 = k.mT @ (error * z2 * gate)
        step2 = k.mT @ (error * z1 * gate * (1 + z2 * (1 - gate)))
        return (q @ (self.w1 - _clip(step1, -2))) * F.silu(q @ (self.w2 - _clip(step2, -2)))

    def _convolve(self, x: Tensor, factor_bn1: Tensor | None) -> Tensor:
        """f' of the patches after its step, and 0 for prefix tokens, [B, N, C] -> [B, N, d]."""
        qkv = self.conv_qkv(x)
        presence = torch.ones_like(qkv[..., :1]) if factor_bn1 is None else factor_bn1.expand(x.shape[0], -1, -1)
        q, k, v = self.to_grid(qkv * presence).chunk(3, dim=1)
        visible_b = self.to_grid(presence).sum(dim=(1, 2, 3), keepdim=True)
        error = self.attn_drop(divide(v, visible_b) * -SCALE).flatten(2).unsqueeze(-1)
        neighbours_bd9n = F.unfold(k, 3, padding=1).unflatten(1, (self.head_dim, 9))
        step = (neighbours_bd9n @ error).flatten(2)
        kernels = self.kernel.flatten(1) - _clip(step, -1)
        images = q.flatten(0, 1).unsqueeze(0)
        out = F.conv2d(images, kernels.reshape(-1, 1, 3, 3), padding=1, groups=images.shape[1])
        return self.from_grid(out.view_as(q))


def _clip(gradient: Tensor, dim: int) -> Tensor:
    return gradient / (torch.linalg.vector_norm(gradient, dim=dim, keepdim=True) + 1)
