"""Synthesizer, arXiv:2005.00743, section 3, logit by logit."""

import torch
from torch import Tensor, nn

from . import affine, heads_of, kept


def reference(module: nn.Module, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Σ_j exp(B_ij) v_j / Σ_j exp(B_ij), with B_ij as `_logit` gives it."""
    images = []
    for b in range(x.shape[0]):
        there = kept(x.shape[1], keep, b)
        v = heads_of(affine(module.v, x[b]), module.num_heads)
        hidden = [None] * module.num_heads
        if module.q is not None:
            hidden = [torch.where(q > 0, q, 0) for q in heads_of(affine(module.q, x[b]), module.num_heads)]
        heads = []
        for h in range(module.num_heads):
            rows = []
            for i in range(x.shape[1]):
                weights = {j: torch.exp(_logit(module, h, hidden[h], i, j)) for j in there}
                rows.append(sum(weights[j] * v[h][j] for j in there) / sum(weights.values()))
            heads.append(torch.stack(rows))
        images.append(affine(module.proj, torch.cat(heads, dim=1)))
    return torch.stack(images)


def _logit(module: nn.Module, h: int, hidden: Tensor | None, i: int, j: int) -> Tensor:
    """B_ij of head h."""
    if module.kind == "random":
        return module.logits[h, i, j]
    if module.kind == "factorised_random":
        return sum(module.query_factor[h, i, r] * module.key_factor[h, j, r] for r in range(module.rank))
    if module.kind == "dense":
        return torch.dot(hidden[i], module.logit_weight[h, :, j]) + module.logit_bias[h, j]
    prefix = module.num_prefix_tokens
    row, column = (j, None) if j < prefix else divmod(j - prefix, module.grid_size[1])
    row = row if column is None else prefix + row
    of_row = torch.dot(hidden[i], module.row_weight[h, :, row]) + module.row_bias[h, row]
    if column is None:
        return of_row
    return of_row * (torch.dot(hidden[i], module.column_weight[h, :, column]) + module.column_bias[h, column])
