"""FasterViT: convolutions at high resolution, hierarchical attention with carrier tokens at low resolution.

Source: Hatamizadeh et al., "FasterViT: Fast Vision Transformers with Hierarchical Attention", arXiv:2306.06189; sizes
are those of the authors' `faster_vit_{0..6}_224` and `faster_vit_4_21k_*` (https://github.com/NVlabs/FasterViT).

Stages 1 and 2 are residual convolutions. Stages 3 and 4 attend inside windows of at most 7×7 tokens; in stage 3 each
window has 2×2 carrier tokens (`fvit.models.backbones.hierarchical`). FasterViT-3 to -6 scale residual branches, and add
the carriers to the map at the end of stage 3. The models pretrained on ImageNet-21k have windows as large as the map
and so no carriers.

All of them take images of any size, as the authors' `faster_vit_*_any_res` do; their `window_size` and `ct_size` are
`window_sizes` and `carriers` here. The map is cut into the fewest equal windows of at most the given size, with masked
padding; the authors pad to full windows and attend to the padding, drop the carriers of a stage with a single window,
and give carriers no position if the map is not square. Where windows divide a square map, both compute the same.

Parameters equal those that the authors' code builds; docs/baselines.md says where they and MACs differ from the README.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d, calculate_drop_path_rates
from timm.models import checkpoint, generate_default_cfgs, register_model
from timm.models.vision_transformer import init_weights_vit_timm
from torch import Tensor, nn

from fvit.models.backbones.backbone import Backbone, Stage, check_stages, create
from fvit.models.backbones.hierarchical import CarrierTokens, HierarchicalBlock, WindowBlock
from fvit.models.backbones.released import KeyMap
from fvit.models.backbones.windows import merge, partition


def _conv(dim: int, out_dim: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(dim, out_dim, 3, stride, padding=1, bias=bias)


class ConvBlock(nn.Module):
    """Two 3×3 convolutions with a residual connection: [B, C, H, W] to the same."""

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(dim, dim, bias=True), nn.BatchNorm2d(dim)
        self.conv2, self.norm2 = _conv(dim, dim, bias=True), nn.BatchNorm2d(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x))))))


class AttentionStage(nn.Module):
    """Attention blocks of one resolution, after `downsample`: [B, C', H', W'] to [B, C, H, W].

    Args:
        dim: width C.
        downsample: maps the previous stage's feature map to this resolution.
        drop_path: stochastic depth rate of each block.
        carriers: rows and columns of carrier tokens in a window; 0: none.
        window_size: largest number of rows and columns of a window.
        add_carriers: whether the last block adds the carriers to the map.
        shape: further arguments of `WindowBlock`.
    """

    def __init__(
        self,
        dim: int,
        downsample: nn.Module,
        drop_path: Sequence[float],
        carriers: int,
        window_size: int,
        add_carriers: bool = False,
        **shape: Any,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.window_size = window_size
        self.downsample = downsample
        self.carriers_per_side = carriers
        self.carriers = CarrierTokens(dim) if carriers else None
        block = HierarchicalBlock if carriers else WindowBlock
        self.blocks = nn.ModuleList(block(dim, drop_path=rate, **shape) for rate in drop_path)
        if carriers and add_carriers:
            self.blocks[-1].add_carriers = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        grid = tuple(x.shape[2:])
        windows = tuple(-(-extent // self.window_size) for extent in grid)
        size = tuple(-(-extent // count) for extent, count in zip(grid, windows, strict=True))
        tokens, real = partition(x.permute(0, 2, 3, 1), size)
        if self.carriers is None:
            for block in self.blocks:
                tokens = self._run(block, tokens, size, real)
        else:
            share = tuple(min(self.carriers_per_side, side) for side in size)
            carriers = self.carriers(x, tuple(count * own for count, own in zip(windows, share, strict=True)))
            for block in self.blocks:
                tokens, carriers = self._run(block, tokens, size, real, carriers, share)
        return merge(tokens, grid, size).permute(0, 3, 1, 2)

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs)
        return block(*inputs)


class FasterViT(Backbone):
    """FasterViT for images of any size, by default FasterViT-0; parameters do not depend on the size.

    Args, other than timm's:
        stem_dim: width inside the stem.
        embed_dim: width of the first stage; each later one doubles it.
        depths: blocks of each of the four stages.
        num_heads, window_sizes: heads, and largest number of rows and columns of a window, of the two stages with
            attention.
        carriers: rows and columns of carrier tokens in each window of the third stage; 0: none.
        init_values: initial scale of the residual branches with attention; None: no scale, and carriers are not added
            to the map.

    Raises:
        ValueError: a width is not divisible by its heads, or an argument does not have one entry per stage.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        stem_dim: int = 64,
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 3, 6, 5),
        num_heads: Sequence[int] = (8, 16),
        window_sizes: Sequence[int] = (7, 7),
        carriers: int = 2,
        init_values: float | None = None,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(4, depths=depths)
        check_stages(2, num_heads=num_heads, window_sizes=window_sizes)
        dims = [embed_dim * 2**i for i in range(4)]
        super().__init__(dims[-1], num_classes, global_pool, drop_rate)
        self.patch_embed = nn.Sequential(
            *(_conv(in_chans, stem_dim, stride=2), nn.BatchNorm2d(stem_dim, eps=1e-4), nn.ReLU()),
            *(_conv(stem_dim, embed_dim, stride=2), nn.BatchNorm2d(embed_dim, eps=1e-4), nn.ReLU()),
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        halvings = [nn.Sequential(LayerNorm2d(dim), _conv(dim, 2 * dim, stride=2)) for dim in dims[:-1]]
        shape = dict(mlp_ratio=mlp_ratio, proj_drop=proj_drop_rate, attn_drop=attn_drop_rate, init_values=init_values)
        third, fourth = (dict(num_heads=n, window_size=w) for n, w in zip(num_heads, window_sizes, strict=True))
        third |= dict(carriers=carriers, add_carriers=init_values is not None)
        self.stages = nn.Sequential(
            Stage(nn.Identity(), (ConvBlock(dims[0], rate) for rate in rates[0])),
            Stage(halvings[0], (ConvBlock(dims[1], rate) for rate in rates[1])),
            AttentionStage(dims[2], halvings[1], rates[2], **third, **shape),
            AttentionStage(dims[3], halvings[2], rates[3], carriers=0, **fourth, **shape),
        )
        self.norm = nn.BatchNorm2d(dims[-1])
        self.feature_info = [dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)]
        self.apply(init_weights_vit_timm)

    @staticmethod
    def key_map(names: Iterable[str]) -> KeyMap:
        """The authors' blocks with carriers have both attentions in one module, and a stage its successor's halving."""
        with_carriers = {name.split(".hat_")[0] for name in names if ".hat_" in name}

        def block(m: re.Match[str]) -> str:
            return f"{m[0]}within." if m[0].removesuffix(".") in with_carriers else m[0]

        return (
            (r"\.(relative_coords_table|relative_position_index|relative_bias)$", None),
            (r"\.to_global_feature\.", None),  # the tokenizer's convolution once more
            (r"^patch_embed\.conv_down\.", "patch_embed."),
            (r"\.hat_(norm\d|attn|mlp|pos_embed)\.", r".across.\1."),
            (r"\.gamma([12])$", r".across.ls\1.gamma"),
            (r"\.gamma([34])$", lambda m: f".ls{int(m[1]) - 2}.gamma"),
            (r"^levels\.\d+\.blocks\.\d+\.(?!across)", block),
            (r"\.pos_emb_funct\.cpb_mlp\.", ".bias.mlp."),
            (r"\.cpb_mlp\.", ".mlp."),
            (r"^levels\.(\d+)\.downsample\.norm\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.0."),
            (r"^levels\.(\d+)\.downsample\.reduction\.0\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.1."),
            (r"\.global_tokenizer\.pos_embed\.", ".carriers.conv."),
            (r"^levels\.", "stages."),
            (r"^head\.", "head.fc."),
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to normalised features [B, 8·embed_dim, H/32, W/32], rounded up."""
        return self.norm(self.stages(self.patch_embed(x)))


def _cfg(file: str, img_size: int = 224, **options: Any) -> dict[str, Any]:
    return dict(
        url=f"https://huggingface.co/ahatamiz/FasterViT/resolve/main/fastervit_{file}.pth.tar",
        license="NVIDIA Source Code License-NC",
        num_classes=1000,
        input_size=(3, img_size, img_size),
        pool_size=(img_size // 32, img_size // 32),
        interpolation="bicubic",
        first_conv="patch_embed.0",
        classifier="head.fc",
        **options,
    )


default_cfgs = generate_default_cfgs(
    {
        "fastervit_0": _cfg("0_224_1k", crop_pct=0.875),
        **{f"fastervit_{size}": _cfg(f"{size}_224_1k", crop_pct=1.0) for size in range(1, 7)},
        "fastervit_4_21k_224": _cfg("4_21k_224_w14", 224, crop_pct=0.95, crop_mode="squash"),
        "fastervit_4_21k_384": _cfg("4_21k_384_w24", 384, crop_pct=1.0, crop_mode="squash"),
        "fastervit_4_21k_512": _cfg("4_21k_512_w32", 512, crop_pct=1.0, crop_mode="squash"),
        "fastervit_4_21k_768": _cfg("4_21k_768_w48", 768, crop_pct=0.93, crop_mode="squash"),
    }
)


def _create(name: str, pretrained: bool, shape: dict[str, Any], options: dict[str, Any]) -> FasterViT:
    return create(FasterViT, name, pretrained, stages=4, **{**shape, **options})


_FOUR = dict(embed_dim=196, depths=(3, 3, 12, 5), num_heads=(16, 32), init_values=1e-5)


def _create_4_21k(img_size: int, pretrained: bool, options: dict[str, Any]) -> FasterViT:
    """FasterViT-4 with windows as large as the map, and so without carriers."""
    shape = dict(**_FOUR, carriers=0, window_sizes=(img_size // 16, img_size // 32))
    return _create(f"fastervit_4_21k_{img_size}", pretrained, shape, options)


@register_model
def fastervit_0(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-0, the defaults of `FasterViT`."""
    return _create("fastervit_0", pretrained, {}, kwargs)


@register_model
def fastervit_1(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-1."""
    return _create("fastervit_1", pretrained, dict(stem_dim=32, embed_dim=80, depths=(1, 3, 8, 5)), kwargs)


@register_model
def fastervit_2(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-2."""
    return _create("fastervit_2", pretrained, dict(embed_dim=96, depths=(3, 3, 8, 5)), kwargs)


@register_model
def fastervit_3(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-3."""
    return _create("fastervit_3", pretrained, dict(embed_dim=128, depths=(3, 3, 12, 5), init_values=1e-5), kwargs)


@register_model
def fastervit_4(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-4."""
    return _create("fastervit_4", pretrained, _FOUR, kwargs)


@register_model
def fastervit_5(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-5."""
    return _create("fastervit_5", pretrained, {**_FOUR, "embed_dim": 320}, kwargs)


@register_model
def fastervit_6(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-6."""
    return _create("fastervit_6", pretrained, {**_FOUR, "embed_dim": 320, "depths": (3, 3, 16, 8)}, kwargs)


@register_model
def fastervit_4_21k_224(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-4 pretrained on ImageNet-21k, for images of 224 px."""
    return _create_4_21k(224, pretrained, kwargs)


@register_model
def fastervit_4_21k_384(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-4 pretrained on ImageNet-21k, for images of 384 px."""
    return _create_4_21k(384, pretrained, kwargs)


@register_model
def fastervit_4_21k_512(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-4 pretrained on ImageNet-21k, for images of 512 px."""
    return _create_4_21k(512, pretrained, kwargs)


@register_model
def fastervit_4_21k_768(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-4 pretrained on ImageNet-21k, for images of 768 px."""
    return _create_4_21k(768, pretrained, kwargs)
