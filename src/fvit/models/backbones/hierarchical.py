"""Hierarchical attention: attention inside windows, which exchange information through carrier tokens.

Source: Hatamizadeh et al., "FasterViT", arXiv:2306.06189, section 3.3. A window's carrier tokens are averages over its
part of the map. In each block, the carriers of all windows attend to each other, and then each window attends to itself
and its own carriers. Large models scale each residual branch (LayerScale, arXiv:2103.17239), and their last block adds
the carriers to the map.

Positions: one MLP maps a token's position in its window to an embedding that is added in each block, another maps the
log-scaled offset between two tokens to a bias on their logit (Swin v2, arXiv:2111.09883). Carriers have no bias. The
MLPs do not depend on the image and run once per batch.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, Mlp
from torch import Tensor, nn

from fvit.models.backbones.windows import GroupAttention, Size, merge, offsets, partition

POSITION_WIDTH = 512


def _position_mlp(out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, POSITION_WIDTH), nn.ReLU(), nn.Linear(POSITION_WIDTH, out_dim, bias=False))


class LogOffsetBias(nn.Module):
    """Swin v2's bias in (0, 16) on the logit of two tokens, from their log-scaled offset."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.mlp = _position_mlp(num_heads)

    def forward(self, size: Size) -> Tensor:
        """The bias of each offset inside a window of `size`, [heads, 2h-1, 2w-1]."""
        along_axes = offsets(size, like=self.mlp[0].weight).unbind(-1)
        x = torch.stack([8 * axis / max(1, side - 1) for axis, side in zip(along_axes, size, strict=True)], dim=-1)
        logarithmic = x.sign() * (x.abs() + 1).log2() / math.log2(8)
        return 16 * self.mlp(logarithmic).sigmoid().permute(2, 0, 1)


class PositionEmbedding(nn.Module):
    """An embedding of a token's position in its window."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = _position_mlp(dim)

    def forward(self, size: Size) -> Tensor:
        """The embeddings of a window of `size`, [h·w, C]."""
        like = self.mlp[0].weight
        axes = (torch.arange(side, dtype=like.dtype, device=like.device) - side // 2 for side in size)
        centred = [axis / max(1, side // 2) for axis, side in zip(axes, size, strict=True)]
        return self.mlp(torch.cartesian_prod(*centred))


class WindowBlock(nn.Module):
    """Attention inside windows, and an MLP, each with a residual connection, scaled if `init_values` is given."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        proj_drop: float,
        attn_drop: float,
        drop_path: float,
        init_values: float | None = None,
    ) -> None:
        super().__init__()
        self.pos_embed = PositionEmbedding(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = GroupAttention(dim, num_heads, LogOffsetBias(num_heads), attn_drop, proj_drop)
        self.ls1 = nn.Identity() if init_values is None else LayerScale(dim, init_values)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop)
        self.ls2 = nn.Identity() if init_values is None else LayerScale(dim, init_values)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: Size, real: Tensor | None = None, carriers: Tensor | None = None) -> Tensor:
        """Windows [B, n, h·w, C] to the same, or with `carriers` [B, n, p, C] in front to [B, n, p + h·w, C]."""
        x = x + self.pos_embed(size)
        if carriers is not None:
            x = torch.cat([carriers, x], dim=2)
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), size, real)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class HierarchicalBlock(nn.Module):
    """Attention among all carriers, then inside each window and its carriers.

    Arguments as for `WindowBlock`; with `add_carriers`, each position in a window then gets its nearest carrier added.
    """

    def __init__(self, dim: int, add_carriers: bool = False, **shape: Any) -> None:
        super().__init__()
        self.add_carriers = add_carriers
        self.across = WindowBlock(dim, **shape)
        self.within = WindowBlock(dim, **shape)

    def forward(
        self, x: Tensor, size: Size, real: Tensor | None, carriers: Tensor, share: Size
    ) -> tuple[Tensor, Tensor]:
        """Windows [B, n, h·w, C] and the map of carriers, `share` of which belong to a window, to the same shapes."""
        whole = tuple(carriers.shape[1:3])
        carriers = self.across(carriers.flatten(1, 2).unsqueeze(1), whole).squeeze(1).unflatten(1, whole)
        own, _ = partition(carriers, share)
        own, x = self.within(x, size, real, own).split([own.shape[2], x.shape[2]], dim=2)
        if self.add_carriers:
            x = x + self.across.ls1(_spread(own, share, size))
        return x, merge(own, whole, share)


def _spread(carriers: Tensor, share: Size, size: Size) -> Tensor:
    """Lay the carriers of each window [B, n, p, C] over its positions, [B, n, h·w, C]."""
    maps = carriers.flatten(0, 1).transpose(1, 2).unflatten(2, share)
    return F.interpolate(maps, size=size).flatten(2).transpose(1, 2).unflatten(0, carriers.shape[:2])


class CarrierTokens(nn.Module):
    """Carrier tokens of a map [B, C, H, W]: a depth-wise convolution, then averages over regions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """Map [B, C, H, W] to carriers [B, rows, columns, C]; regions overlap if `size` does not divide the map."""
        pairs = [*zip(x.shape[2:], size, strict=True)]
        stride = [extent // count for extent, count in pairs]
        kernel = [extent - extent // count * (count - 1) for extent, count in pairs]
        return F.avg_pool2d(self.conv(x), kernel, stride).permute(0, 2, 3, 1)
