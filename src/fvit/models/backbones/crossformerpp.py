"""CrossFormer++: embeddings at several scales, and alternating attention among near and among distant tokens.

Source: Wang et al., "CrossFormer++: A Versatile Vision Transformer Hinging on Cross-Scale Attention",
arXiv:2303.06908, which extends "CrossFormer", arXiv:2108.00154. Widths, group sizes and positions of cooling layers are
those of the authors' {small,base,large,huge}_patch4_group_const_224 (https://github.com/cheerss/CrossFormer).

* Cross-scale embedding: a token is the concatenation of convolutions with one stride and several kernels, the smaller
  kernels with the more channels.
* Short and long distance attention (SDA, LDA): blocks alternate between windows of G×G neighbours and groups of G×G
  tokens at distance I.
* Dynamic position bias: an MLP maps the offset between two tokens to a bias on their logit.
* Progressive group size: G = 4, 4, 14, 7 in the four stages; a stage with at most G rows is one group.
* Amplitude cooling layer: after every third block of a long stage, a depth-wise convolution and a norm without residual
  connection stop the growth of amplitudes.

Parameters equal the published ones. For the published MACs, docs/baselines.md.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from timm.layers import DropPath, Mlp, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import init_weights_vit_timm
from torch import Tensor, nn

from fvit.models.backbones.backbone import Backbone, Stage, check_stages, create
from fvit.models.backbones.released import KeyMap
from fvit.models.backbones.windows import GroupAttention, Size, merge, offsets, partition

PATCH_SIZES = (4, 8, 16, 32)
MERGE_SIZES = (2, 4)
COOLING_EVERY = 3


class CrossScaleEmbed(nn.Module):
    """Parallel convolutions, one kernel size per scale: [B, C, H, W] to [B, H/stride, W/stride, C'].

    Each kernel has half the channels of the one before it; the last two have the same number.
    """

    def __init__(self, dim: int, out_dim: int, kernel_sizes: Sequence[int], stride: int) -> None:
        super().__init__()
        widths = [out_dim // 2**i for i in range(1, len(kernel_sizes))]
        self.scales = nn.ModuleList(
            nn.Conv2d(dim, width, kernel_size, stride, padding=(kernel_size - stride) // 2)
            for width, kernel_size in zip([*widths, widths[-1]], kernel_sizes, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([scale(x) for scale in self.scales], dim=1).permute(0, 2, 3, 1)


class PatchMerging(nn.Module):
    """Half the rows and columns, twice the channels: [B, H, W, C] to [B, H/2, W/2, 2C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.embed = CrossScaleEmbed(dim, 2 * dim, MERGE_SIZES, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(self.norm(x).permute(0, 3, 1, 2))


class DynamicPositionBias(nn.Sequential):
    """An MLP from the offset between two tokens to a bias on their logit in each head."""

    def __init__(self, dim: int, num_heads: int) -> None:
        # Below the smallest published width, a norm leaves hardly more than the sign.
        hidden = max(4, dim // 16)
        layers = [nn.Linear(2, hidden)]
        for width in (hidden, hidden, num_heads):
            layers += [nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, width)]
        super().__init__(*layers)

    def forward(self, size: Size) -> Tensor:
        """The bias of each offset inside a group of `size`, [heads, 2h-1, 2w-1]."""
        return super().forward(offsets(size, like=self[0].weight)).permute(2, 0, 1)


class Block(nn.Module):
    """Attention inside groups, and an MLP: [B, H, W, C] to the same.

    Args:
        group_size: rows and columns G of a group; at most the shorter side of the grid.
        step: distance I between the tokens of a group: 1 for short distance attention, more for long.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        group_size: int,
        step: int,
        mlp_ratio: float,
        proj_drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.group_size, self.step = group_size, step
        self.norm1 = nn.LayerNorm(dim)
        self.attn = GroupAttention(dim, num_heads, DynamicPositionBias(dim, num_heads), attn_drop, proj_drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        grid = x.shape[1:3]
        side, step = self.group_size, self.step
        if min(grid) <= side:
            side, step = min(grid), 1
        groups, real = partition(x, (side, side), step)
        return merge(self.attn(groups, (side, side), real), grid, (side, side), step)


class AmplitudeCooling(nn.Module):
    """A depth-wise 3×3 convolution and a norm, without residual connection: [B, H, W, C] to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def _blocks(dim: int, step: int, drop_path: Sequence[float], **shape: Any) -> Iterator[nn.Module]:
    """Alternating short and long distance attention, and a cooling layer after every third block but the last."""
    for number, rate in enumerate(drop_path, start=1):
        yield Block(dim, step=step if number % 2 == 0 else 1, drop_path=rate, **shape)
        if number % COOLING_EVERY == 0 and number < len(drop_path):
            yield AmplitudeCooling(dim)


class CrossFormer(Backbone):
    """CrossFormer++ for images whose sides are multiples of 32 px; parameters do not depend on the size.

    Args, other than timm's:
        embed_dim: width of the first stage; each later one doubles it.
        depths, num_heads: of each stage.
        group_sizes: rows and columns G of a group, per stage.
        steps: distance I between the tokens of a group in long distance attention, per stage.

    Raises:
        ValueError: `embed_dim` is not a multiple of 8 or of the heads, or an argument does not have one entry per
            stage.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        group_sizes: Sequence[int] = (4, 4, 14, 7),
        steps: Sequence[int] = (4, 2, 1, 1),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        if embed_dim % 8:
            near = max(1, round(embed_dim / 8)) * 8
            raise ValueError(f"embed_dim={embed_dim} does not divide into four scales; use embed_dim={near}")
        check_stages(len(depths), num_heads=num_heads, group_sizes=group_sizes, steps=steps)
        dims = [embed_dim * 2**i for i in range(len(depths))]
        super().__init__(dims[-1], num_classes, global_pool, drop_rate, output_fmt="NHWC")
        self.patch_embed = nn.Sequential(
            CrossScaleEmbed(in_chans, embed_dim, PATCH_SIZES, stride=PATCH_SIZES[0]), nn.LayerNorm(embed_dim)
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.Sequential()
        self.feature_info = []
        for i, dim in enumerate(dims):
            blocks = _blocks(
                dim,
                steps[i],
                rates[i],
                num_heads=num_heads[i],
                group_size=group_sizes[i],
                mlp_ratio=mlp_ratio,
                proj_drop=proj_drop_rate,
                attn_drop=attn_drop_rate,
            )
            self.stages.append(Stage(PatchMerging(dim // 2) if i else nn.Identity(), blocks))
            self.feature_info.append(dict(num_chs=dim, reduction=PATCH_SIZES[0] * 2**i, module=f"stages.{i}"))
        self.norm = nn.LayerNorm(dims[-1])
        self.apply(init_weights_vit_timm)

    @staticmethod
    def key_map(names: Iterable[str]) -> KeyMap:
        """The authors number a cooling layer with the block before it, and a stage with the merging after it."""

        def block(after: int) -> Callable[[re.Match[str]], str]:
            return lambda m: f"stages.{m[1]}.blocks.{int(m[2]) + int(m[2]) // COOLING_EVERY + after}."

        return (
            (r"\.attn_mask$|\.attn\.(biases|relative_position_index)$", None),
            (r"^patch_embed\.projs\.", "patch_embed.0.scales."),
            (r"^patch_embed\.norm\.", "patch_embed.1."),
            (r"^layers\.(\d+)\.blocks\.(\d+)\.ex_(?=conv|ln)", block(after=1)),
            (r"^layers\.(\d+)\.blocks\.(\d+)\.", block(after=0)),
            (r"\.ln\.", ".norm."),
            (r"^layers\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
            (r"\.reductions\.", ".embed.scales."),
            (r"\.attn\.pos\.pos_proj\.", ".attn.bias.0."),
            (r"\.attn\.pos\.pos(\d)\.(\d)\.", lambda m: f".attn.bias.{3 * int(m[1]) - 2 + int(m[2])}."),
            (r"^head\.", "head.fc."),
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to normalised features [B, H/32, W/32, 8·embed_dim].

        Raises:
            ValueError: a side is not a multiple of 32 px.
        """
        height, width = x.shape[-2:]
        multiple = self.feature_info[-1]["reduction"]
        if height % multiple or width % multiple:
            fits = [max(1, round(side / multiple)) * multiple for side in (height, width)]
            raise ValueError(
                f"CrossFormer++ takes images whose sides are multiples of {multiple} px, not {height}×{width}; "
                f"use {fits[0]}×{fits[1]} (data.img_size={fits[0]})"
            )
        return self.norm(self.stages(self.patch_embed(x)))


def _cfg(baidu: str) -> dict[str, Any]:
    return dict(
        url="",  # BaiduCloud serves browsers alone, with the key crsf
        origin_url=f"https://pan.baidu.com/s/{baidu}?pwd=crsf",
        license="mit",
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.875,
        interpolation="bicubic",
        first_conv=tuple(f"patch_embed.0.scales.{i}" for i in range(len(PATCH_SIZES))),
        classifier="head.fc",
    )


default_cfgs = generate_default_cfgs(
    {
        "crossformerpp_s": _cfg("1smc_kRoogd0Ig5vfqwuGTA"),
        "crossformerpp_b": _cfg("13XVP0ebtNcyRMmkl11ALYg"),
        "crossformerpp_l": _cfg("1xtPh-ndcOxRM7fPYYxIIRg"),
        "crossformerpp_h": _cfg("1xtPh-ndcOxRM7fPYYxIIRg"),  # as the authors have it, the address of L
    }
)


def _create(name: str, pretrained: bool, shape: dict[str, Any], options: dict[str, Any]) -> CrossFormer:
    return create(CrossFormer, name, pretrained, stages=4, **{**shape, **options})


@register_model
def crossformerpp_s(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """CrossFormer++-S, the defaults of `CrossFormer`."""
    return _create("crossformerpp_s", pretrained, {}, kwargs)


@register_model
def crossformerpp_b(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """CrossFormer++-B."""
    return _create("crossformerpp_b", pretrained, dict(embed_dim=96, num_heads=(3, 6, 12, 24)), kwargs)


@register_model
def crossformerpp_l(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """CrossFormer++-L."""
    return _create("crossformerpp_l", pretrained, dict(embed_dim=128, num_heads=(4, 8, 16, 32)), kwargs)


@register_model
def crossformerpp_h(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """CrossFormer++-H, which is L with more blocks in the first two stages."""
    shape = dict(embed_dim=128, depths=(6, 6, 18, 2), num_heads=(4, 8, 16, 32))
    return _create("crossformerpp_h", pretrained, shape, kwargs)
