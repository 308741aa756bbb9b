"""FasterViT-0: convolutions at high resolution, hierarchical attention with carrier tokens at low resolution.

Source: Hatamizadeh et al., "FasterViT: Fast Vision Transformers with Hierarchical Attention", arXiv:2306.06189; details
and published figures from the authors' code for `faster_vit_0_224` (https://github.com/NVlabs/FasterViT).

Stages 1 and 2 are residual convolutions. Stages 3 and 4 attend inside windows of at most 7×7 tokens; in stage 3 each
window has 2×2 carrier tokens (`fvit.models.backbones.hierarchical`).

Like the authors' code for this size, this leaves out the paper's last step of a stage, which adds carriers to the map.
Unlike it, carriers stay even if stage 3 has a single window, so that parameters do not depend on the image size, and a
map that windows of 7 do not divide is cut into the fewest equal windows of at most 7, with masked padding. At 224 px
both compute the same.

Parameters: 31.4 M published, 31,404,840 here and in the authors' code. MACs at 224 px: 3.3 G published, 3.49 G here,
3.44 G in convolutions and linear layers; 3.31 G without the position MLPs, which do not depend on the image.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d, calculate_drop_path_rates
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from timm.models.vision_transformer import init_weights_vit_timm
from torch import Tensor, nn

from fvit.models.backbones.backbone import Backbone, Stage, check_stages
from fvit.models.backbones.hierarchical import CarrierTokens, HierarchicalBlock, WindowBlock
from fvit.models.backbones.windows import merge, partition

WINDOW_SIZE = 7
CARRIERS = 2


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
        carriers: whether windows have carrier tokens.
        window_size: largest number of rows and columns of a window.
        shape: further arguments of `WindowBlock`.
    """

    def __init__(
        self,
        dim: int,
        downsample: nn.Module,
        drop_path: Sequence[float],
        carriers: bool,
        window_size: int = WINDOW_SIZE,
        **shape: Any,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.window_size = window_size
        self.downsample = downsample
        self.carriers = CarrierTokens(dim) if carriers else None
        block = HierarchicalBlock if carriers else WindowBlock
        self.blocks = nn.ModuleList(block(dim, drop_path=rate, **shape) for rate in drop_path)

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
            share = tuple(min(CARRIERS, side) for side in size)
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
        num_heads: heads of the two stages with attention.

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
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(4, depths=depths)
        check_stages(2, num_heads=num_heads)
        dims = [embed_dim * 2**i for i in range(4)]
        super().__init__(dims[-1], num_classes, global_pool, drop_rate)
        self.patch_embed = nn.Sequential(
            *(_conv(in_chans, stem_dim, stride=2), nn.BatchNorm2d(stem_dim, eps=1e-4), nn.ReLU()),
            *(_conv(stem_dim, embed_dim, stride=2), nn.BatchNorm2d(embed_dim, eps=1e-4), nn.ReLU()),
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        halvings = [nn.Sequential(LayerNorm2d(dim), _conv(dim, 2 * dim, stride=2)) for dim in dims[:-1]]
        shape = dict(mlp_ratio=mlp_ratio, proj_drop=proj_drop_rate, attn_drop=attn_drop_rate)
        self.stages = nn.Sequential(
            Stage(nn.Identity(), (ConvBlock(dims[0], rate) for rate in rates[0])),
            Stage(halvings[0], (ConvBlock(dims[1], rate) for rate in rates[1])),
            AttentionStage(dims[2], halvings[1], rates[2], carriers=True, num_heads=num_heads[0], **shape),
            AttentionStage(dims[3], halvings[2], rates[3], carriers=False, num_heads=num_heads[1], **shape),
        )
        self.norm = nn.BatchNorm2d(dims[-1])
        self.feature_info = [dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)]
        self.apply(init_weights_vit_timm)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to normalised features [B, 8·embed_dim, H/32, W/32], rounded up."""
        return self.norm(self.stages(self.patch_embed(x)))


default_cfgs = generate_default_cfgs(
    {
        "fastervit_0": dict(
            url="",  # the authors' weights use other parameter names and a non-commercial license
            num_classes=1000,
            input_size=(3, 224, 224),
            pool_size=(7, 7),
            crop_pct=0.875,
            interpolation="bicubic",
            first_conv="patch_embed.0",
            classifier="head.fc",
        )
    }
)


@register_model
def fastervit_0(pretrained: bool = False, **kwargs: Any) -> FasterViT:
    """FasterViT-0, the defaults of `FasterViT`."""
    features = dict(feature_cls="hook", out_indices=(0, 1, 2, 3))
    return build_model_with_cfg(FasterViT, "fastervit_0", pretrained, feature_cfg=features, **kwargs)
