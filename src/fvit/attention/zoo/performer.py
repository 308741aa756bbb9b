"""FAVOR+: random features whose products are softmax attention in expectation.

Source: Choromanski et al., "Rethinking Attention with Performers", arXiv:2009.14794 (positive
orthogonal random features).

    out_n = φ(q_n) Σ_l φ(k_l)ᵀ v_l / (φ(q_n) Σ_l φ(k_l))
    φ(x) = exp(ω x̃ − ‖x̃‖²/2) / √m,      x̃ = x / d^¼,      E[φ(q) φ(k)ᵀ] = exp(q kᵀ / √d)

Cost: O(N·m·D) besides the four projections. The m rows of ω are orthogonal within each d of them and as long as rows
of independent Gaussians; they are drawn once, for each head anew, and stay: the paper's redrawing in training is not
here. The exponentials are shifted as a softmax's are, by what cancels in the quotient, with no epsilon added.
"""

import math

import torch
from torch import Tensor

from fvit.attention.ops import kernel_average
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("performer")
class Performer(Projected):
    """Performer's attention. Arguments as for `Projected`, `attn_drop` falls on φ(k), and:

    Args:
        num_features: number m of random features a head; d ln d, the paper's, if None.
        seed: determines the features; blocks with the same seed have the same ones. They are saved with the weights.

    Raises:
        ValueError: `num_features` is below 1; a mask between pairs of tokens, or causality, is asked for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_bias: bool = True,
        num_features: int | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **host: object,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, proj_bias, device, dtype, **host)
        if num_features is None:
            num_features = max(1, round(self.head_dim * math.log(self.head_dim)))
        if num_features < 1:
            raise ValueError(f"performer: num_features={num_features} leaves no feature; take at least 1, or null")
        factory = dict(device=device, dtype=dtype)
        self.seed = seed
        self.register_buffer("features", torch.empty(num_heads, num_features, self.head_dim, **factory))
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the features ω."""
        self.features.copy_(_orthogonal_gaussian(*self.features.shape, self.seed))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` may hide tokens, as [B, 1, 1, N]."""
        self.refuse_causal(is_causal)
        q, k, v = self.heads(x)
        bias = self.key_bias(attn_mask, x)
        log_q_bhnm, log_k_bhnm = self._log_features(q), self._log_features(k)
        if bias is not None:
            log_k_bhnm = log_k_bhnm + bias.unsqueeze(-1)
        # What is taken from the keys feature by feature is given to the queries, and a constant of a query cancels.
        # So each feature's largest key becomes 1, and so does each query's largest feature: no quotient vanishes.
        largest_bh1m = log_k_bhnm.detach().amax(dim=-2, keepdim=True)
        phi_k = self.attn_drop((log_k_bhnm - largest_bh1m).exp())
        log_q_bhnm = log_q_bhnm + largest_bh1m
        phi_q = (log_q_bhnm - log_q_bhnm.detach().amax(dim=-1, keepdim=True)).exp()
        out = kernel_average(phi_q, phi_k, v.to(phi_k.dtype))
        return self.output(out.to(v.dtype))

    def _log_features(self, x: Tensor) -> Tensor:
        """log(√m φ(x)), [B, H, N, d] -> [B, H, N, m], in float32 at least: the exponential magnifies its errors."""
        x = x.to(torch.promote_types(x.dtype, torch.float32)) * self.head_dim**-0.25
        return x @ self.features.to(x.dtype).transpose(-2, -1) - x.square().sum(dim=-1, keepdim=True) / 2


def _orthogonal_gaussian(heads: int, features: int, width: int, seed: int) -> Tensor:
    """[H, m, d]: each row is distributed as a Gaussian's, and the rows of each block of d are orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-features // width)
    gaussian = torch.randn(heads, blocks, width, width, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    # Uniform over all rotations and reflections only when R's diagonal is made positive.
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).transpose(-2, -1)
    lengths = torch.randn(heads, blocks, width, width, generator=generator, dtype=torch.float64).norm(dim=-1)
    return (lengths.unsqueeze(-1) * directions).flatten(1, 2)[:, :features]
