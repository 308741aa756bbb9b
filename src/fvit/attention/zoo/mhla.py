"""MHLA, multi-head linear attention: linear attention whose sums over blocks of patches are mixed anew for each block.

Source: Zhang et al., "MHLA: Restoring Expressivity of Linear Attention via Token-Level Multi-Head", arXiv:2601.07832.

    out_n = φ(q_n) Σ_b m_ib S_b / (φ(q_n) Σ_b m_ib z_b) [+ DWC(v)_n]      for a patch n of block i
    S_b = Σ_{j ∈ b} φ(k_j)ᵀ v_j,      z_b = Σ_{j ∈ b} φ(k_j)ᵀ,      φ(x) = ReLU([norm] x)

The M blocks are √M × √M cells of the grid of ⌈rows / √M⌉ × ⌈columns / √M⌉ patches; the last ones are smaller where that
does not divide the grid. The coefficients m [M, M] are learned and start as 1 − distance / greatest distance of the
cells, divided by their sum over i. They are clipped to [0, 1] here; the authors' code clips the parameter after each
step, so gradients pass.

The paper has no prefix tokens. Here all queries see their keys, and they see all keys, with the coefficient 1/M: with
equal coefficients MHLA is linear attention. The paper's images are padded until the blocks divide the grid. The authors
normalise queries and keys by RMSNorm over all channels (`rms_norm`).

Released code: takes for the normaliser of a query Σ_b m_ib φ(q') z_b, with the query q' at the same place of block b in
place of its own.

Cost: O(N·D·d) besides the four projections; the mixing adds O(M²·D·d), DWC O(N·D·w²).

Family: linear.

Code: DAGroup-PKU/MHLA (MIT).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention.norms import RMSNorm
from fvit.attention.ops import Size, divide, not_half, rows_and_columns, without_autocast
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("mhla")
class MHLA(Projected):
    """MHLA. Other arguments as for `Projected`; `attn_drop` applies to φ(k).

    Args:
        num_blocks: number M of blocks, a square number.
        rms_norm: normalise queries and keys over all channels.
    """

    needs_grid = True

    def __init__(
        self, dim: int, num_heads: int = 8, *, num_blocks: int = 16, rms_norm: bool = False, **shared: Any
    ) -> None:
        super().__init__(dim, num_heads, **shared)
        self.side = math.isqrt(max(num_blocks, 0))
        if self.side**2 != num_blocks or not self.side:
            near = f"{self.side**2} or {(self.side + 1) ** 2}" if self.side else "1"
            raise ValueError(f"mhla: num_blocks={num_blocks} must be a square number, such as {near}")
        self.mixing = nn.Parameter(torch.empty(num_blocks, num_blocks, **self.factory))
        self.q_norm = RMSNorm(dim, **self.factory) if rms_norm else nn.Identity()
        self.k_norm = RMSNorm(dim, **self.factory) if rms_norm else nn.Identity()
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        along = torch.arange(self.side, dtype=torch.float64)
        cells = torch.cartesian_prod(along, along)
        distance = torch.cdist(cells, cells)
        near = 1 - distance / distance.max().clamp(min=1)
        self.mixing.copy_(near / near.sum(dim=0))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.split_heads(self.q_norm(q)), self.split_heads(self.k_norm(k)), self.split_heads(v)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        rows_and_columns(type(self).__name__, q.shape[-2], self.grid_size, self.num_prefix_tokens)
        # Not in float16: the normaliser may be small, and its gradient has its square as a denominator.
        dtype = not_half(v.dtype)
        with without_autocast(v.device):
            return self._average(q.to(dtype), k.to(dtype), v.to(dtype), bias).to(v.dtype)

    def _average(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        # The factor 1/N cancels; with it no sum is larger than its largest term.
        q, k = F.relu(q), F.relu(k) / k.shape[-2]
        if bias is not None:
            k = k * bias.exp().to(k.dtype).unsqueeze(-1)
        # S and z in one: the normaliser is the sum of a further value, 1.
        k, v = self.attn_drop(k), F.pad(v, (0, 1), value=1.0)
        first, share = self.num_prefix_tokens, self.side**-2
        blocks = [self._partition(t[:, :, first:]) for t in (q, k, v)]
        sums_bhmde = blocks[1].mT @ blocks[2]
        coefficients = self.mixing + (self.mixing.clamp(0, 1) - self.mixing).detach()
        mixed_bhmde = (coefficients.to(q.dtype) @ sums_bhmde.flatten(-2)).unflatten(-1, sums_bhmde.shape[-2:])
        if first == 0:
            out = self._merge(blocks[0] @ mixed_bhmde)
        else:
            of_prefix_bh1de = (k[:, :, :first].mT @ v[:, :, :first] * share).unsqueeze(2)
            total_bhde = sums_bhmde.sum(dim=2) * share + of_prefix_bh1de.squeeze(2)
            patches = self._merge(blocks[0] @ (mixed_bhmde + of_prefix_bh1de))
            out = torch.cat([q[:, :, :first] @ total_bhde, patches], dim=2)
        return divide(out[..., :-1], out[..., -1:])

    def _block(self) -> Size:
        """Rows and columns of a block."""
        rows, columns = self.grid_size
        return -(-rows // self.side), -(-columns // self.side)

    def _partition(self, x: Tensor) -> Tensor:
        """Patches grouped by block, padded with 0, [B, H, rows · columns, e] -> [B, H, M, patches of a block, e]."""
        (rows, columns), (height, width), side = self.grid_size, self._block(), self.side
        grid = F.pad(x.unflatten(2, (rows, columns)), (0, 0, 0, width * side - columns, 0, height * side - rows))
        cells = grid.unflatten(3, (side, width)).unflatten(2, (side, height))
        return cells.transpose(3, 4).flatten(4, 5).flatten(2, 3)

    def _merge(self, x: Tensor) -> Tensor:
        """The inverse of `_partition`."""
        cells = x.unflatten(3, self._block()).unflatten(2, (self.side, self.side)).transpose(3, 4)
        return cells.flatten(4, 5).flatten(2, 3)[:, :, : self.grid_size[0], : self.grid_size[1]].flatten(2, 3)
