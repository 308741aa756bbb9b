"""Attention inside groups of a grid of tokens: windows of neighbours, or tokens a fixed step apart.

A grid [B, H, W, C] is cut into n groups of h·w tokens each, [B, n, h·w, C]. With step 1 a group is a window (Swin,
arXiv:2103.14030); with step I it takes every I-th token along each axis (CrossFormer, arXiv:2108.00154). A grid that
groups do not divide is padded at its lower right, and the padding is masked.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]
"""Rows and columns."""


def partition(x: Tensor, size: Size, step: int = 1) -> tuple[Tensor, Tensor | None]:
    """Cut a grid [B, H, W, C] into groups [B, n, h·w, C], with padding if they do not divide it.

    Args:
        x: the grid.
        size: rows h and columns w of a group.
        step: distance between the tokens of a group.

    Returns:
        the groups, and a mask of the tokens that are not padding, [n, h·w]; None without padding.
    """
    below, right = (-extent % (side * step) for extent, side in zip(x.shape[1:3], size, strict=True))
    if not below and not right:
        return _cut(x, size, step), None
    pad = (0, 0, 0, right, 0, below)
    real = F.pad(torch.ones_like(x[:1, :, :, :1], dtype=torch.bool), pad)
    return _cut(F.pad(x, pad), size, step), _cut(real, size, step)[0, :, :, 0]


def merge(groups: Tensor, grid: Size, size: Size, step: int = 1) -> Tensor:
    """Undo `partition`: groups [B, n, h·w, C] to the grid [B, H, W, C], without the padding."""
    batch, width = groups.shape[0], groups.shape[-1]
    rows, columns = (-(-extent // (side * step)) for extent, side in zip(grid, size, strict=True))
    x = groups.reshape(batch, rows, columns, step, step, *size, width).permute(0, 1, 5, 3, 2, 6, 4, 7)
    x = x.reshape(batch, rows * size[0] * step, columns * size[1] * step, width)
    return x[:, : grid[0], : grid[1]]


def _cut(x: Tensor, size: Size, step: int) -> Tensor:
    batch, height, columns, width = x.shape
    x = x.reshape(batch, height // (size[0] * step), size[0], step, columns // (size[1] * step), size[1], step, width)
    return x.permute(0, 1, 4, 3, 6, 2, 5, 7).reshape(batch, -1, size[0] * size[1], width)


def offsets(size: Size, like: Tensor) -> Tensor:
    """All offsets between two tokens of a group, [2h-1, 2w-1, 2], from (1-h, 1-w) to (h-1, w-1)."""
    axes = (torch.arange(1 - side, side, dtype=like.dtype, device=like.device) for side in size)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def pairs(table_hrc: Tensor, size: Size) -> Tensor:
    """Lay out a value for each offset, [heads, 2h-1, 2w-1], by pairs (query, key) of tokens: [heads, h·w, h·w].

    The offset is that of the query from the key.
    """
    # A window of the table that starts at q holds the entries q + t; key = side-1-t gives q - key + side-1.
    windows = table_hrc.unfold(1, size[0], 1).unfold(2, size[1], 1).flip(-2, -1)
    return windows.flatten(3).flatten(1, 2)


class GroupAttention(nn.Module):
    """Softmax attention inside each group, with a bias on the logits for the offset between query and key.

    Tokens in front of the group, such as carrier tokens, attend and are attended to without bias.

    Args:
        bias: maps the size (h, w) of a group to the bias of each offset, [heads, 2h-1, 2w-1].

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    def __init__(
        self, dim: int, num_heads: int, bias: nn.Module, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"a width of {dim} is not divisible by {num_heads} heads; see embed_dim and num_heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.bias = bias
        self.attn_drop = attn_drop
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, size: Size, real: Tensor | None = None) -> Tensor:
        """Map groups of tokens [B, n, p + h·w, C] to the same shape; `real` [n, h·w] as `partition` returns it."""
        groups, tokens = x.shape[1:3]
        # Groups and heads share a dimension, so that one mask serves the whole batch.
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        q, k, v = qkv.unbind()
        mask = self._mask(groups, tokens, size, real).to(q.dtype)
        dropout = self.attn_drop if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out = out.unflatten(1, (groups, self.num_heads)).transpose(2, 3).flatten(3)
        return self.proj_drop(self.proj(out))

    def _mask(self, groups: int, tokens: int, size: Size, real: Tensor | None) -> Tensor:
        """The bias on the logits, [n·heads, tokens, tokens]."""
        prefix = tokens - size[0] * size[1]
        bias = F.pad(pairs(self.bias(size), size), (prefix, 0, prefix, 0)).expand(groups, -1, -1, -1)
        if real is not None:
            hidden = ~F.pad(real, (prefix, 0), value=True)
            # Finite, because a group may be all padding.
            bias = bias.masked_fill(hidden[:, None, None], torch.finfo(bias.dtype).min)
        return bias.flatten(0, 1)
