"""T⁵'s test-time training: a pretrained softmax attention becomes linear by one gradient step of a small model.

Source: Li et al., "Linearizing Vision Transformer with Test-Time Training", arXiv:2605.02772 (T⁵).

    out_n = f(q_n; W − ∇_W L),      L = −mean_n ⟨f(k̂_n; W), v_n⟩ / √d      f(x; W) = (SiLU(x W₁) ⊙ x W₂) W₃  per head
    k̂ = (k − mean k) / √(var k + 1)  per channel over the tokens      [q + DWC(q), k̂ + DWC'(k̂) for q, k̂]

W is learned and where the one step of each image starts; its gradient is written out below. All else is softmax
attention's and loads from it. The convolutions are those of T⁵⁺; they are 3×3 with bias, on the patches only, and a
hidden patch is zero to them, like the border.

Cost: O(N·D·d) besides the four projections, nine products of the size of q kᵀ v's two; a convolution adds O(N·D·w²).

Value convolution: converted DeiT-T 69.25 to 70.47 % (arXiv:2605.02772, table 3).

Family: test-time training.

Code: LeapLabTHU/Transformer-to-TTT.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import convolve_patches, depthwise, token_shares
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("ttt_t5")
class T5TestTimeTraining(Projected):
    """T⁵'s attention. Other arguments as for `Projected`; `attn_drop` applies to each token's part of ∇L.

    Args:
        qk_conv: width w of the depth-wise convolutions of queries and keys, odd; 0 for none. Needs the grid.
    """

    adds_conv = True

    def __init__(self, dim: int, num_heads: int = 8, *, qk_conv: int = 0, **shared: Any) -> None:
        super().__init__(dim, num_heads, **shared)
        d = self.head_dim
        self.w1 = nn.Parameter(torch.empty(num_heads, d, d, **self.factory))
        self.w2 = nn.Parameter(torch.empty(num_heads, d, d, **self.factory))
        self.w3 = nn.Parameter(torch.empty(num_heads, d, d, **self.factory))
        self.q_conv = depthwise("ttt_t5: qk_conv", dim, qk_conv, **self.factory)
        self.k_conv = depthwise("ttt_t5: qk_conv", dim, qk_conv, **self.factory)
        self.needs_grid = self.needs_grid or qk_conv > 0
        self.init_weights()

    def init_weights(self) -> None:
        for weight in (self.w1, self.w2, self.w3):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        share_b1n, factor_bn1 = token_shares(self.key_bias(attn_mask, x), x), self.mask_factor(attn_mask, x)
        k = k - share_b1n @ k
        k = k / (share_b1n @ k.square() + 1).sqrt()
        if self.q_conv is not None:
            q, k = self._add_conv(self.q_conv, q, factor_bn1), self._add_conv(self.k_conv, k, factor_bn1)
        q, k, v = (self.split_heads(t) for t in (q, k, v))
        return self.output(self.add_conv(self._train_and_apply(q, k, v, share_b1n), v, attn_mask))

    def _add_conv(self, conv: nn.Conv2d, x: Tensor, factor_bn1: Tensor | None) -> Tensor:
        seen = x if factor_bn1 is None else x * factor_bn1
        return x + convolve_patches(conv, seen, self.grid_size, self.num_prefix_tokens)

    def _train_and_apply(self, q: Tensor, k: Tensor, v: Tensor, share_b1n: Tensor) -> Tensor:
        """f(q; W − ∇_W L), [B, H, N, d]."""
        z1, z2 = k @ self.w1, k @ self.w2
        gate = z1.sigmoid()
        hidden = z1 * gate * z2
        # The gradients of L with respect to f(k_n), and to what W₃ multiplies.
        error = self.attn_drop(share_b1n.unsqueeze(1).mT * -self.scale * v)
        of_hidden = error @ self.w3.mT
        w1 = self.w1 - k.mT @ (of_hidden * z2 * gate * (1 + z1 * (1 - gate)))
        w2 = self.w2 - k.mT @ (of_hidden * z1 * gate)
        w3 = self.w3 - hidden.mT @ error
        return (F.silu(q @ w1) * (q @ w2)) @ w3
