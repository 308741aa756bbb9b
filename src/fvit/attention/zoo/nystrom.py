"""Nyström attention: softmax attention between tokens and a few landmarks, joined by a pseudo-inverse.

Source: Xiong et al., "Nyströmformer: A Nyström-Based Algorithm for Approximating Self-Attention", arXiv:2102.03902,
section 3.

    out = softmax(Q K̃ᵀ/√d) Z softmax(Q̃ Kᵀ/√d) V [+ DWC(V)],      Z ≈ A⁺, A = softmax(Q̃ K̃ᵀ/√d)
    Z₀ = Aᵀ / (‖A‖₁ ‖A‖∞),      Z ← Z (13 − AZ (15 − AZ (7 − AZ))) / 4

Cost: O(N·m·D + m³·H) besides the four projections; DWC adds O(N·D·w²). Q̃ and K̃ are the means of m segments of
consecutive tokens, as equal as N allows: the shorter come first, as in the authors' code for ViTs. Masked tokens are as
if absent: the segments are those of the others, and a mask of b weighs a token by exp(b) in its segment's mean. The
norms are those of one head of one image, whereas the authors' code also offers the largest of a batch. The
pseudo-inverse magnifies rounding errors, so that all but the projections runs in float32 at least; autocast overrules
that. DWC is one depth-wise kernel a head, without bias, as in the paper; there it runs along the sequence, here over
w×w patches. Prefix tokens are left out of it, and a hidden patch is zero to it, as the border is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fvit.attention.ops import convolve_heads, depthwise, divide
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("nystrom")
class Nystrom(Projected):
    """Nyström attention. Arguments as for `Projected`, `attn_drop` falls on softmax(QK̃ᵀ/√d), and:

    Args:
        num_landmarks: number m of landmarks; as many as there are tokens, if that is less.
        iterations: steps of the iteration for Z; each makes rounding errors where A is singular 13/4 times as large.
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. It needs the grid of the patches.

    Raises:
        ValueError: an option is out of its range; tokens do not fill the grid that the convolution needs; a mask
            between pairs of tokens, or causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        num_landmarks: int = 64,
        iterations: int = 6,
        conv: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        if num_landmarks < 1:
            raise ValueError(f"nystrom: num_landmarks={num_landmarks} leaves no landmark; take at least 1")
        if iterations < 0:
            raise ValueError(f"nystrom: iterations={iterations} is no number of steps; take 6, the paper's")
        self.conv = depthwise("nystrom: conv", num_heads, conv, bias=False, device=device, dtype=dtype)
        self.needs_grid = conv > 0
        self.num_landmarks = num_landmarks
        self.iterations = iterations

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q, k, v [B, H, N, d] to [B, H, N, d]."""
        exact = torch.promote_types(v.dtype, torch.float32)
        out = self._attend(q.to(exact), k.to(exact), v.to(exact), None if bias is None else bias.to(exact)).to(v.dtype)
        if self.conv is not None:
            present_v = v if bias is None else v * bias.exp().unsqueeze(-1)
            out = out + self._convolved(present_v)
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        count = min(self.num_landmarks, q.shape[-2])
        if bias is None:
            landmark_q, landmark_k, landmark_bias = _segment_means(q, count), _segment_means(k, count), None
        else:
            bias = bias.unsqueeze(-2)
            weights_b1mn = _segment_weights(bias, count)
            landmark_q, landmark_k = weights_b1mn @ q, weights_b1mn @ k
            # Fewer tokens than landmarks leave some without a token.
            empty_b1m1 = weights_b1mn.sum(dim=-1, keepdim=True) == 0
            landmark_bias = torch.zeros_like(empty_b1m1, dtype=q.dtype).masked_fill(empty_b1m1, float("-inf"))
            landmark_bias = landmark_bias.transpose(-2, -1)
        logits_bhmm = landmark_q @ landmark_k.transpose(-2, -1) * self.scale
        if bias is None:
            map_bhmm = logits_bhmm.softmax(dim=-1)
        else:
            map_bhmm = (logits_bhmm + landmark_bias).softmax(dim=-1) * ~empty_b1m1
        pooled_bhmd = F.scaled_dot_product_attention(landmark_q, k, v, attn_mask=bias)
        dropout = self.attn_drop.p if self.training else 0.0
        return F.scaled_dot_product_attention(
            q, landmark_k, _pinv(map_bhmm, self.iterations) @ pooled_bhmd, attn_mask=landmark_bias, dropout_p=dropout
        )

    def _convolved(self, v: Tensor) -> Tensor:
        """The values [B, H, N, d] under the kernel of their head, which is one for all its channels."""
        # To the convolution heads are what channels are elsewhere.
        return convolve_heads(self.conv, v.transpose(1, 3), self.grid_size, self.num_prefix_tokens).transpose(1, 3)


def _segment_means(x: Tensor, count: int) -> Tensor:
    """The means of `count` segments of the tokens, [B, H, N, d] -> [B, H, m, d]; the shorter segments come first."""
    size, longer = divmod(x.shape[-2], count)
    short, long = x.split([(count - longer) * size, longer * (size + 1)], dim=-2)
    means = [short.unflatten(-2, (count - longer, size)).mean(dim=-2), long.unflatten(-2, (longer, size + 1)).mean(-2)]
    return torch.cat(means, dim=-2)


def _segment_weights(bias: Tensor, count: int) -> Tensor:
    """What takes the means of `count` segments of the tokens that a bias [B, 1, 1, N] leaves, as [B, 1, m, N]."""
    presence = bias.exp()
    there = presence > 0
    place = there.cumsum(dim=-1) - 1
    size = there.sum(dim=-1, keepdim=True) // count
    shorter = count - there.sum(dim=-1, keepdim=True) % count
    beyond = place - shorter * size
    segment = torch.where(beyond < 0, place // size.clamp(min=1), shorter + beyond // (size + 1))
    weights = presence * (segment == torch.arange(count, device=bias.device).unsqueeze(-1))
    return divide(weights, weights.sum(dim=-1, keepdim=True))


def _pinv(a: Tensor, iterations: int) -> Tensor:
    """The pseudo-inverse of matrices whose rows are positive and sum to 1 (or are 0), by Razavi's iteration."""
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    # Of the two norms by which the start is divided, that of the rows is 1.
    z = a.transpose(-2, -1) / a.sum(dim=-2).amax(dim=-1)[..., None, None]
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * identity - az @ (15 * identity - az @ (7 * identity - az))) / 4
    return z
