"""RandFormer, arXiv:2210.13452, section 3.1, pair by pair."""

import torch
from torch import Tensor, nn

from . import kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j exp(R_ij) x_j / Σ_j exp(R_ij)."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        weights = [{j: torch.exp(row[j]) for j in there} for row in module.logits]
        images.append(torch.stack([sum(w[j] * x[b, j] for j in there) / sum(w.values()) for w in weights]))
    return torch.stack(images)
