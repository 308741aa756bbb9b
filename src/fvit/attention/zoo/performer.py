"""Performer (FAVOR+): random features whose inner products are softmax attention in expectation.

Source: Choromanski et al., "Rethinking Attention with Performers", arXiv:2009.14794 (positive orthogonal random
features).

    out_n = φ(q_n) Σ_l φ(k_l)ᵀ v_l / (φ(q_n) Σ_l φ(k_l))
    φ(x) = exp(ω x̃ − ‖x̃‖²/2) / √m,      x̃ = x / d^¼,      E[φ(q) φ(k)ᵀ] = exp(q kᵀ / √d)

Cost: O(N·m·D) besides the four projections. The m rows of ω are orthogonal within each block of d, with the lengths of
independent Gaussian vectors. They are drawn once, separately for each head; the paper's redrawing during training is
not implemented. The exponentials are shifted as in a softmax, by terms that cancel in the quotient, without an epsilon.

Family: linear.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fvit.attention.ops import kernel_average, without_autocast
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("performer")
class PerformerAttention(Projected):
    """Performer's attention. Other arguments as for `Projected`; `attn_drop` applies to φ(k).

    Args:
        num_features: number m of random features per head, at least 1; None for the paper's d ln d.
        seed: seed of the features; blocks with the same seed have the same ones. They are saved with the weights.
    """

    adds_conv = True

    def __init__(
        self, dim: int, num_heads: int = 8, *, num_features: int | None = None, seed: int = 0, **shared: Any
    ) -> None:
        super().__init__(dim, num_heads, **shared)
        if num_features is None:
            num_features = max(1, round(self.head_dim * math.log(self.head_dim)))
        if num_features < 1:
            raise ValueError(f"performer: num_features={num_features} must be at least 1, or null for d ln d")
        self.seed = seed
        self.register_buffer("features", torch.empty(num_heads, num_features, self.head_dim, **self.factory))
        self.init_weights()

    def init_weights(self) -> None:
        self.features.copy_(_orthogonal_gaussian(*self.features.shape, self.seed))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.refuse_causal(is_causal)
        q, k, v = self.heads(x)
        bias = self.key_bias(attn_mask, x)
        log_q_bhnm, log_k_bhnm = self._log_features(q), self._log_features(k)
        if bias is not None:
            log_k_bhnm = log_k_bhnm + bias.unsqueeze(-1)
        # A factor per feature moves from keys to queries, and a factor per query cancels in the quotient. So scale the
        # largest key of each feature, and the largest feature of each query, to 1: nothing underflows as a whole.
        largest_bh1m = log_k_bhnm.detach().amax(dim=-2, keepdim=True)
        phi_k = self.attn_drop((log_k_bhnm - largest_bh1m).exp())
        log_q_bhnm = log_q_bhnm + largest_bh1m
        phi_q = (log_q_bhnm - log_q_bhnm.detach().amax(dim=-1, keepdim=True)).exp()
        return self.output(self.add_conv(kernel_average(phi_q, phi_k, v), v, attn_mask))

    def _log_features(self, x: Tensor) -> Tensor:
        """log(√m φ(x)), [B, H, N, d] -> [B, H, N, m], in float32 at least: the exponential amplifies its errors."""
        x = x.to(torch.promote_types(x.dtype, torch.float32)) * self.head_dim**-0.25
        with without_autocast(x.device):
            return x @ self.features.to(x.dtype).transpose(-2, -1) - x.square().sum(dim=-1, keepdim=True) / 2


def _orthogonal_gaussian(heads: int, features: int, width: int, seed: int) -> Tensor:
    """[H, m, d]: each row is distributed like a Gaussian vector, and the rows of each block of d are orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-features // width)
    gaussian = torch.randn(heads, blocks, width, width, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    # Q is uniformly distributed over rotations and reflections only if R's diagonal is made positive.
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).transpose(-2, -1)
    lengths = torch.randn(heads, blocks, width, width, generator=generator, dtype=torch.float64).norm(dim=-1)
    return (lengths.unsqueeze(-1) * directions).flatten(1, 2)[:, :features]
