"""ViP, the Vision Permutator: linear layers along rows, columns and channels instead of attention.

Source: Hou et al., "Vision Permutator: A Permutable MLP-Like Architecture for Visual Recognition", arXiv:2106.12368.
Initialisation, the MLP that weighs the sum, and sizes follow the authors' code for `vip_s14`, `vip_s7`, `vip_m7` and
`vip_l7` (https://github.com/houqb/VisionPermutator), which writes as four stages what has one or two resolutions.

The C channels are cut into segments of s. One linear layer maps the H·s values of a segment along a column of the map,
another the W·s values along a row, a third the C values of a position:

    out = W_o (a_H ⊙ X_H + a_W ⊙ X_W + a_C ⊙ X_C) + b_o      a = softmax(MLP(mean over positions of X_H + X_W + X_C))

with the softmax over the three, channel by channel. In the paper, and here at 224 px, there are as many segments as
rows, so that H·s = C. At other sizes segments keep their width and the layers along rows and columns change size with
the map, so weights for one image size do not fit another.

Parameters equal the published ones and those that the authors' code builds. They give no MACs.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from timm.layers import DropPath, Mlp, PatchEmbed, calculate_drop_path_rates, to_2tuple
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import init_weights_vit_timm
from torch import Tensor, nn

from fvit.models.backbones.backbone import Backbone, Stage, check_stages, create
from fvit.models.backbones.released import KeyMap

Size = tuple[int, int]


class PermuteMlp(nn.Module):
    """Mix a map [B, H, W, C] along its columns, its rows and its channels, in segments of `segment_dim` channels."""

    def __init__(self, dim: int, grid_size: Size, segment_dim: int) -> None:
        super().__init__()
        height, width = grid_size
        self.segment_dim = segment_dim
        self.mix_h = nn.Linear(height * segment_dim, height * segment_dim, bias=False)
        self.mix_w = nn.Linear(width * segment_dim, width * segment_dim, bias=False)
        self.mix_c = nn.Linear(dim, dim, bias=False)
        self.reweight = Mlp(dim, dim // 4, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x_bhwgs = x.unflatten(-1, (-1, self.segment_dim))
        h, w, c = _along(1, self.mix_h, x_bhwgs), _along(2, self.mix_w, x_bhwgs), self.mix_c(x)
        logits_bc3 = self.reweight((h + w + c).mean(dim=(1, 2))).unflatten(-1, (-1, 3))
        a_h, a_w, a_c = logits_bc3.softmax(dim=-1)[:, None, None].unbind(-1)
        return self.proj(a_h * h + a_w * w + a_c * c)


def _along(axis: int, linear: nn.Linear, x_bhwgs: Tensor) -> Tensor:
    """Apply `linear` to the positions along `axis` and the channels of a segment at once; [B, H, W, C]."""
    x = x_bhwgs.movedim(axis, -2)
    return linear(x.flatten(-2)).unflatten(-1, x.shape[-2:]).movedim(-2, axis).flatten(-2)


class Permutator(nn.Module):
    """A Permute-MLP and an MLP over channels, each with a residual connection: [B, H, W, C] to the same."""

    def __init__(self, dim: int, mlp_ratio: float, drop_path: float, **permute: Any) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.permute = PermuteMlp(dim, **permute)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.permute(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Downsample(nn.Module):
    """Merge patches of 2×2 positions: [B, H, W, C] to [B, H/2, W/2, C']."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, out_dim, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class VisionPermutator(Backbone):
    """ViP for images of one size, by default ViP-Small/7.

    Args, other than timm's:
        patch_size: side of a patch of the first stage; each later stage halves the map.
        embed_dims, depths: of each stage.
        segment_dims: channels per segment, of each stage.

    Raises:
        ValueError: the patches of the last stage do not divide the images, a segment does not divide its width, or an
            argument does not have one entry per stage.
    """

    def __init__(
        self,
        img_size: int | Size = 224,
        patch_size: int = 7,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (192, 384),
        depths: Sequence[int] = (4, 14),
        segment_dims: Sequence[int] = (6, 24),
        mlp_ratio: float = 3.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(len(embed_dims), depths=depths, segment_dims=segment_dims)
        img_size = to_2tuple(img_size)
        _check_sides(img_size, patch_size, patch_size * 2 ** (len(embed_dims) - 1))
        for dim, segment_dim in zip(embed_dims, segment_dims, strict=True):
            if dim % segment_dim:
                raise ValueError(f"segments of {segment_dim} channels do not divide a width of {dim}")
        super().__init__(embed_dims[-1], num_classes, global_pool, drop_rate, output_fmt="NHWC")
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dims[0], output_fmt="NHWC")
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.Sequential()
        self.feature_info = []
        for i, (dim, segment_dim) in enumerate(zip(embed_dims, segment_dims, strict=True)):
            reduction = patch_size * 2**i
            shape = dict(grid_size=tuple(side // reduction for side in img_size), segment_dim=segment_dim)
            blocks = (Permutator(dim, mlp_ratio, rate, **shape) for rate in rates[i])
            self.stages.append(Stage(Downsample(embed_dims[i - 1], dim) if i else nn.Identity(), blocks))
            self.feature_info.append(dict(num_chs=dim, reduction=reduction, module=f"stages.{i}"))
        self.norm = nn.LayerNorm(embed_dims[-1])
        self.apply(init_weights_vit_timm)

    @staticmethod
    def key_map(names: Iterable[str]) -> KeyMap:
        """Number the authors' blocks through all their stages of one resolution."""
        found = {(int(m[1]), m[2]) for name in names if (m := re.match(r"network\.(\d+)\.(\w+)\.", name))}
        halvings = [entry for entry, inner in found if inner == "proj"]
        blocks = [entry for entry, inner in found if inner != "proj"]

        def stage(entry: int) -> int:
            return sum(halving < entry for halving in halvings)

        def block(m: re.Match[str]) -> str:
            entry = int(m[1])
            before = sum(other < entry and stage(other) == stage(entry) for other in blocks)
            return f"stages.{stage(entry)}.blocks.{before + int(m[2])}."

        return (
            (r"^network\.(\d+)\.proj\.", lambda m: f"stages.{stage(int(m[1])) + 1}.downsample.proj."),
            (r"^network\.(\d+)\.(\d+)\.", block),
            (r"\.attn\.mlp_([hwc])\.", r".permute.mix_\1."),
            (r"\.attn\.", ".permute."),
            (r"^head\.", "head.fc."),
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to normalised features [B, H', W', C], [B, H/14, W/14, 384] for ViP-Small."""
        return self.norm(self.stages(self.patch_embed(x)))


def _check_sides(img_size: Size, patch_size: int, multiple: int) -> None:
    for side in img_size:
        if side % multiple:
            raise ValueError(
                f"ViP merges patches of {patch_size} px into patches of {multiple} px, which do not divide images of "
                f"{side} px; use img_size={max(1, round(side / multiple)) * multiple}"
            )


def _cfg(drive: str | None = None, crop_pct: float = 0.9) -> dict[str, Any]:
    return dict(
        url="",  # Google Drive serves browsers alone
        origin_url=drive and f"https://drive.google.com/file/d/{drive}",
        num_classes=1000,
        input_size=(3, 224, 224),
        fixed_input_size=True,
        crop_pct=crop_pct,
        interpolation="bicubic",
        first_conv="patch_embed.proj",
        classifier="head.fc",
    )


default_cfgs = generate_default_cfgs(
    {
        "vip_small14": _cfg(),  # never released
        "vip_small7": _cfg("1cX6eauDrsGsLSZnqsX7cl0oiKX8Dzv5z"),
        "vip_medium7": _cfg("15y5WMypthpbBFdc01E3mJCZit7q0Yn8m"),
        "vip_large7": _cfg("14F5IXGXmB_3jrwK33Efae-WEb5D_G85c", crop_pct=0.875),
    }
)


def _create(name: str, pretrained: bool, shape: dict[str, Any], options: dict[str, Any]) -> VisionPermutator:
    shape = {**shape, **options}
    stages = len(shape.get("embed_dims", (192, 384)))
    return create(VisionPermutator, name, pretrained, stages, **shape)


@register_model
def vip_small14(pretrained: bool = False, **kwargs: Any) -> VisionPermutator:
    """ViP-Small/14, which has one resolution."""
    shape = dict(patch_size=14, embed_dims=(384,), depths=(18,), segment_dims=(24,))
    return _create("vip_small14", pretrained, shape, kwargs)


@register_model
def vip_small7(pretrained: bool = False, **kwargs: Any) -> VisionPermutator:
    """ViP-Small/7, the defaults of `VisionPermutator`."""
    return _create("vip_small7", pretrained, {}, kwargs)


@register_model
def vip_medium7(pretrained: bool = False, **kwargs: Any) -> VisionPermutator:
    """ViP-Medium/7."""
    shape = dict(embed_dims=(256, 512), depths=(7, 17), segment_dims=(8, 32))
    return _create("vip_medium7", pretrained, shape, kwargs)


@register_model
def vip_large7(pretrained: bool = False, **kwargs: Any) -> VisionPermutator:
    """ViP-Large/7."""
    shape = dict(embed_dims=(256, 512), depths=(8, 28), segment_dims=(8, 32))
    return _create("vip_large7", pretrained, shape, kwargs)
