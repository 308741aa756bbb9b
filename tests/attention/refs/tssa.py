"""TSSA, arXiv:2412.17810, equations 10 and 11: token by token."""

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """−W_o (π_nh w_nh / (1 + Σ_m π_mh w_mh² / Σ_m π_mh)), π = softmax over heads of τ_h Σ_d (w_nhd / ‖w_hd‖)²."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        w = heads_of(affine(module.w, x[b]), module.num_heads)
        norms = [torch.stack([head[n] for n in there]).square().sum(dim=0).sqrt() for head in w]
        memberships = []
        for n in range(x.shape[1]):
            energies = [((head[n] / norm) ** 2).sum() for head, norm in zip(w, norms, strict=True)]
            weights = torch.stack([torch.exp(t * e) for t, e in zip(module.temperature, energies, strict=True)])
            memberships.append(weights / weights.sum())
        heads = []
        for h, head in enumerate(w):
            total = sum(memberships[n][h] for n in there)
            moment = sum(memberships[n][h] * head[n] ** 2 for n in there) / total
            heads.append(torch.stack([-pi[h] * row / (1 + moment) for pi, row in zip(memberships, head, strict=True)]))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)
