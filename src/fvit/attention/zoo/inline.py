"""InLine, injective linear attention: scores are shifted to sum to 1, not divided by their sum.

Source: Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", arXiv:2412.06590
(InLine attention).

    out_n = Σ_m (φ(q_n)·k_m − mean_l φ(q_n)·k_l + 1/N) v_m [+ Σ_r w_r ⊙ v_n+r],      φ(q) = q / (N √d)

The first sum is evaluated as  mean_m v_m + (q_n / √d) · mean_m (k_m − k̄)ᵀ v_m,  where k̄ is the mean key. The second,
the local residual, is over the 3×3 neighbourhood of a patch, with weights that an MLP predicts from the image's mean
token:

    w = W₂ GELU(W₁ x̄ + b₁) + b₂,  nine per channel, both layers per head

Cost: O(N·D·d) besides the four projections; the residual adds O(9·N·D). The authors' models use the identity as kernel,
so scores may be negative; the factor 1/(N √d), which the paper's equation omits, and the shape of the MLP are those of
their code. A hidden patch is zero to the residual, like the border.

Released code: gives DeiT-T 6 heads of 32 channels, not 3 of 64, which halves the MLPs (6.5 M parameters in all, 7.2 M
in `vit_tiny`), DeiT-S a width of 320 with 10 heads for 288 px, and DeiT-B 384 with 12 for 448 px.

Family: linear.

Code: LeapLabTHU/InLine.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import associate, cast_once, convolve_patches, token_shares
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("inline")
class InLineAttention(Projected):
    """InLine attention. Other arguments as for `Projected`; `attn_drop` applies to the centred keys.

    Args:
        local: add the local residual, which needs the grid.
    """

    adds_conv = True

    def __init__(self, dim: int, num_heads: int = 8, *, local: bool = False, **shared: Any) -> None:
        super().__init__(dim, num_heads, **shared)
        self.local = self._mlp() if local else None
        self.needs_grid = self.needs_grid or local

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        bias, x = self.key_bias(attn_mask, x), cast_once(x)
        q, k, v = self.heads(x)
        share_b11n = token_shares(bias, x).unsqueeze(1)
        centred_k = self.attn_drop(k - share_b11n @ k) * share_b11n.transpose(-2, -1)
        out = self.add_conv(share_b11n @ v + associate(q * self.scale, centred_k, v), v, attn_mask)
        out = self.merge_heads(out)
        if self.local is not None:
            present_v = v if bias is None else v * bias.exp().unsqueeze(-1)
            out = out + self._local_residual(self.merge_heads(present_v), share_b11n.squeeze(1) @ x)
        return self.proj_drop(self.proj(out))

    def _mlp(self) -> nn.Sequential:
        """Nine weights per channel from a mean token, per head, [B, C, 1] -> [B, 9C, 1]."""
        first = nn.Conv1d(self.dim, self.dim, 1, groups=self.num_heads, **self.factory)
        second = nn.Conv1d(self.dim, 9 * self.dim, 1, groups=self.num_heads, **self.factory)
        return nn.Sequential(first, nn.GELU(), second)

    def _local_residual(self, v_bnc: Tensor, mean_x_b1c: Tensor) -> Tensor:
        """Each image's values convolved with its own 3×3 depth-wise kernel."""
        kernels = self.local(mean_x_b1c.transpose(1, 2)).reshape(-1, 1, 3, 3)

        def convolve(patches_bchw: Tensor) -> Tensor:
            one_image = patches_bchw.flatten(0, 1).unsqueeze(0)
            return F.conv2d(one_image, kernels, padding=1, groups=kernels.shape[0]).view_as(patches_bchw)

        return convolve_patches(convolve, v_bnc, self.grid_size, self.num_prefix_tokens)
