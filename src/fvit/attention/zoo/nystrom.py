"""Nyström attention: softmax attention via a few landmarks and the pseudo-inverse of their attention map.

Source: Xiong et al., "Nyströmformer: A Nyström-Based Algorithm for Approximating Self-Attention", arXiv:2102.03902,
section 3.

    out = softmax(Q K̃ᵀ/√d) Z softmax(Q̃ Kᵀ/√d) V [+ DWC(V)],      Z ≈ A⁺, A = softmax(Q̃ K̃ᵀ/√d)
    Z₀ = Aᵀ / (‖A‖₁ ‖A‖∞),      Z ← Z (13 − AZ (15 − AZ (7 − AZ))) / 4

Cost: O(N·m·D + m³·H) besides the four projections; DWC adds O(N·D·w²). Q̃ and K̃ are the means of m segments of
consecutive tokens, as equal as N allows, the shorter ones first as in the authors' code for ViTs. Only tokens that are
not masked form segments, and a mask of b weights a token by exp(b) in its segment's mean. If no more than m tokens are
left, this is softmax attention itself, as in the authors' code. The norms are those of one head of one image. The
pseudo-inverse amplifies rounding errors, so everything but the projections runs in float32 at least, under autocast
too. DWC has one depth-wise kernel per head, without bias, over w×w patches, without the prefix tokens. A hidden patch
is zero to it, like the border.

Released code: offers the norms' maximum over a batch as well, and runs DWC along the sequence.

Family: low rank.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fvit.attention.ops import convolve_heads, depthwise, divide, without_autocast
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("nystrom")
class NystromAttention(Projected):
    """Nyström attention. Other arguments as for `Projected`; `attn_drop` applies to softmax(QK̃ᵀ/√d).

    Args:
        num_landmarks: number m of landmarks, at least 1; softmax attention for as many tokens or fewer.
        iterations: steps of the iteration for Z; if A is singular, each amplifies rounding errors by 13/4.
        conv: width w of the depth-wise convolution on the values, odd; 0 for none. Needs the grid.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        num_landmarks: int = 64,
        iterations: int = 6,
        conv: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(dim, num_heads, **shared)
        if num_landmarks < 1:
            raise ValueError(f"nystrom: num_landmarks={num_landmarks} must be at least 1")
        if iterations < 0:
            raise ValueError(f"nystrom: iterations={iterations} must not be negative; the paper uses 6")
        self.conv = depthwise("nystrom: conv", num_heads, conv, bias=False, **self.factory)
        self.needs_grid = conv > 0
        self.num_landmarks = num_landmarks
        self.iterations = iterations

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        exact = torch.promote_types(v.dtype, torch.float32)
        bias_b11n = None if bias is None else bias.to(exact).unsqueeze(-2)
        with without_autocast(v.device):
            return self._attend(q.to(exact), k.to(exact), v.to(exact), bias_b11n).to(v.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias_b11n: Tensor | None) -> Tensor:
        count = self.num_landmarks
        if q.shape[-2] <= count:
            return self.sdpa(q, k, v, bias_b11n)
        if bias_b11n is None:
            landmark_q, landmark_k = _segment_means(q, count), _segment_means(k, count)
            map_bhmm = (landmark_q @ landmark_k.mT * self.scale).softmax(dim=-1)
            pooled_bhmd = F.scaled_dot_product_attention(landmark_q, k, v)
            return self.sdpa(q, landmark_k, _pinv(map_bhmm, self.iterations) @ pooled_bhmd)
        weights_b1mn = _segment_weights(bias_b11n, count)
        sum_b1m1 = weights_b1mn.sum(dim=-1, keepdim=True)
        landmark_q, landmark_k, landmark_v = (divide(weights_b1mn, sum_b1m1) @ t for t in (q, k, v))
        # An image with as few tokens as landmarks has one in each segment, or none, and its landmarks are the tokens.
        exact_b111 = (bias_b11n.exp() > 0).sum(dim=-1, keepdim=True) <= count
        bias_b11m = torch.where(exact_b111, sum_b1m1.log(), 0).mT
        map_bhmm = (landmark_q @ landmark_k.mT * self.scale + bias_b11m).softmax(dim=-1)
        pooled_bhmd = F.scaled_dot_product_attention(landmark_q, k, v, attn_mask=bias_b11n)
        values_bhmd = torch.where(exact_b111, landmark_v, _pinv(map_bhmm, self.iterations) @ pooled_bhmd)
        return self.sdpa(q, landmark_k, values_bhmd, bias_b11m)

    def convolve(self, v: Tensor) -> Tensor:
        """With one kernel per head: heads take the place of channels."""
        return convolve_heads(self.conv, v.transpose(1, 3), self.grid_size, self.num_prefix_tokens).transpose(1, 3)


def _segment_means(x: Tensor, count: int) -> Tensor:
    """Means of `count` segments of the tokens, the shorter ones first, [B, H, N, d] -> [B, H, m, d]."""
    size, longer = divmod(x.shape[-2], count)
    short, long = x.split([(count - longer) * size, longer * (size + 1)], dim=-2)
    means = [short.unflatten(-2, (count - longer, size)).mean(dim=-2), long.unflatten(-2, (longer, size + 1)).mean(-2)]
    return torch.cat(means, dim=-2)


def _segment_weights(bias: Tensor, count: int) -> Tensor:
    """exp(bias) of the tokens in each of `count` segments, [B, 1, m, N], which a bias [B, 1, 1, N] does not hide."""
    presence = bias.exp()
    there = presence > 0
    place = there.cumsum(dim=-1) - 1
    size = there.sum(dim=-1, keepdim=True) // count
    shorter = count - there.sum(dim=-1, keepdim=True) % count
    beyond = place - shorter * size
    segment = torch.where(beyond < 0, place // size.clamp(min=1), shorter + beyond // (size + 1))
    return presence * (segment == torch.arange(count, device=bias.device).unsqueeze(-1))


def _pinv(a: Tensor, iterations: int) -> Tensor:
    """Pseudo-inverse, by Razavi's iteration, of matrices whose rows are positive and sum to 1, or are 0."""
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    # The initial value is divided by ‖A‖₁ ‖A‖∞, and ‖A‖∞ is 1.
    z = a.transpose(-2, -1) / a.sum(dim=-2).amax(dim=-1)[..., None, None]
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * identity - az @ (15 * identity - az @ (7 * identity - az))) / 4
    return z
