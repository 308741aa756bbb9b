"""Injective linear attention: scores that are shifted to sum to 1 in place of being divided by their sum.

Source: Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", arXiv:2412.06590
(InLine attention).

    out_n = Σ_m (φ(q_n)·k_m − mean_l φ(q_n)·k_l + 1/N) v_m [+ Σ_r w_r ⊙ v_n+r],      φ(q) = q / (N √d)

The first sum is  mean_m v_m + (q_n / √d) · mean_m (k_m − k̄)ᵀ v_m,  with k̄ the mean of the keys. The second, the local
residual, runs over the 3×3 patches around a patch, with weights that an MLP predicts from the image's mean token:

    w = W₂ GELU(W₁ x̄ + b₁) + b₂,  nine for each channel, both maps head by head

Cost: O(N·D·d) besides the four projections; the residual adds O(9·N·D). The kernel of the published models is the
identity, so that scores may be negative; its factor 1/(N √d), which the paper's equation leaves out, and the shape of
the MLP are those of the published code. A hidden patch is zero to the residual, as the border is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.ops import associate, convolve_patches, token_shares
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("inline")
class InLine(Projected):
    """InLine attention. Arguments as for `Projected`, `attn_drop` falls on the centred keys, and:

    Args:
        local: add the local residual, which needs the grid of the patches.

    Raises:
        ValueError: tokens do not fill the grid that the local residual needs; a mask between pairs of tokens, or
            causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        local: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        factory = dict(device=device, dtype=dtype)
        self.local = self._mlp(**factory) if local else None
        self.needs_grid = local

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q, k, v = self.heads(x)
        bias = self.key_bias(attn_mask, x)
        share_b11n = token_shares(bias, x).unsqueeze(1)
        centred_k = self.attn_drop(k - share_b11n @ k) * share_b11n.transpose(-2, -1)
        out = self.merge_heads(share_b11n @ v + associate(q, centred_k, v) * self.scale)
        if self.local is not None:
            present_v = v if bias is None else v * bias.exp().unsqueeze(-1)
            out = out + self._local_residual(self.merge_heads(present_v), share_b11n.squeeze(1) @ x)
        return self.proj_drop(self.proj(out))

    def _mlp(self, **factory: object) -> nn.Sequential:
        """Nine weights for each channel from a mean token, [B, C, 1] -> [B, 9C, 1], head by head."""
        first = nn.Conv1d(self.dim, self.dim, 1, groups=self.num_heads, **factory)
        second = nn.Conv1d(self.dim, 9 * self.dim, 1, groups=self.num_heads, **factory)
        return nn.Sequential(first, nn.GELU(), second)

    def _local_residual(self, v_bnc: Tensor, mean_x_b1c: Tensor) -> Tensor:
        """Each image's values under its own 3×3 depth-wise kernel."""
        kernels = self.local(mean_x_b1c.transpose(1, 2)).reshape(-1, 1, 3, 3)

        def convolve(patches_bchw: Tensor) -> Tensor:
            one_image = patches_bchw.flatten(0, 1).unsqueeze(0)
            return F.conv2d(one_image, kernels, padding=1, groups=kernels.shape[0]).view_as(patches_bchw)

        return convolve_patches(convolve, v_bnc, self.grid_size, self.num_prefix_tokens)
