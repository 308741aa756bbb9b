"""CAS-ViT: convolutional additive attention, which gates queries and keys instead of comparing them.

Source: Zhang et al., "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for Efficient Mobile
Applications", arXiv:2408.03703; sizes and details follow the authors' code for `rcvit_xs`, `_s`, `_m` and `_t`
(https://github.com/Tianfang-Zhang/CAS-ViT), whose MODEL_ZOO.md has the printed parameters.

    out = conv(Γ(Φ(Q) + Φ(K)) ⊙ V)      Φ(x) = C(S(x))

    S(x) = x ⊙ σ(w · ReLU(BN(conv x)))  one gate per position, for all channels
    C(x) = x ⊙ σ(W mean over positions of x)  one gate per channel, for all positions

where conv and Γ are depth-wise 3×3 convolutions. The convolutions that halve the map in the stem and between stages
round up, so images may have any size.

As in the authors' code, a second head learns from a teacher and the output is the mean of both heads; the published
number of parameters includes both. As in timm, both learn from the labels unless `set_distilled_training` is called.

Parameters equal the published ones. The published MACs, as quoted by iFormer (arXiv:2501.15369), also count two per
element of batch normalisation (docs/baselines.md).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from timm.layers import DropPath, Mlp, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import init_weights_vit_timm
from torch import Tensor, nn

from fvit.models.backbones.backbone import Backbone, Stage, check_stages, create
from fvit.models.backbones.released import KeyMap


def _depthwise(dim: int) -> nn.Conv2d:
    return nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


class SpatialGate(nn.Module):
    """Scale each position of a map [B, C, H, W], all channels alike."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            _depthwise(dim), nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, 1, 1, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class ChannelGate(nn.Module):
    """Scale each channel of a map [B, C, H, W], all positions alike."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, dim, 1, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class AdditiveMixer(nn.Module):
    """Convolutional additive attention of a map [B, C, H, W]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.gate_q = nn.Sequential(SpatialGate(dim), ChannelGate(dim))
        self.gate_k = nn.Sequential(SpatialGate(dim), ChannelGate(dim))
        self.context = _depthwise(dim)
        self.proj = _depthwise(dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=1)
        return self.proj(self.context(self.gate_q(q) + self.gate_k(k)) * v)


class Block(nn.Module):
    """Local perception, additive attention and an MLP, each with a residual connection: [B, C, H, W] to the same."""

    def __init__(self, dim: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim), _depthwise(dim), nn.GELU(), nn.Conv2d(dim, dim, 1)
        )
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = AdditiveMixer(dim)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), use_conv=True)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.local(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class CasViT(Backbone):
    """CAS-ViT for images of any size, by default CAS-ViT-XS; arguments as in timm, `embed_dims` and `depths` per stage.

    Raises:
        ValueError: `depths` does not have one entry per stage.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (48, 56, 112, 220),
        depths: Sequence[int] = (2, 2, 4, 2),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(len(embed_dims), depths=depths)
        super().__init__(embed_dims[-1], num_classes, global_pool, drop_rate)
        self.patch_embed = nn.Sequential(
            *(_halving(in_chans, embed_dims[0] // 2), nn.ReLU()),
            *(_halving(embed_dims[0] // 2, embed_dims[0]), nn.ReLU()),
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.Sequential()
        self.feature_info = []
        for i, dim in enumerate(embed_dims):
            blocks = (Block(dim, mlp_ratio, rate) for rate in rates[i])
            self.stages.append(Stage(_halving(embed_dims[i - 1], dim) if i else nn.Identity(), blocks))
            self.feature_info.append(dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}"))
        self.norm = nn.BatchNorm2d(embed_dims[-1])
        self.head_dist = self._second_head()
        self.distilled_training = False
        self.apply(init_weights_vit_timm)

    @staticmethod
    def key_map(names: Iterable[str]) -> KeyMap:
        """The authors' network alternates stages and the convolutions that halve the map."""
        return (
            (r"^patch_embed\.(\d+)", lambda m: f"patch_embed.{int(m[1]) // 3 * 2}.{int(m[1]) % 3}"),
            (r"^network\.(\d*[02468])\.", lambda m: f"stages.{int(m[1]) // 2}.blocks."),
            (r"^network\.(\d+)\.proj\.", lambda m: f"stages.{int(m[1]) // 2 + 1}.downsample.0."),
            (r"^network\.(\d+)\.norm\.", lambda m: f"stages.{int(m[1]) // 2 + 1}.downsample.1."),
            (r"\.local_perception\.network\.", ".local."),
            (r"\.oper_([qk])\.(\d)\.block\.", r".gate_\1.\2.gate."),
            (r"\.dwc\.", ".context."),
            (r"^head\.", "head.fc."),
            (r"^dist_head\.", "head_dist."),
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to normalised features [B, C', H/32, W/32], rounded up."""
        return self.norm(self.stages(self.patch_embed(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Features to logits [B, classes], or to the input of the heads if `pre_logits`.

        With `set_distilled_training`, a pair of logits in training: for the labels and for the teacher.
        """
        x = self.head(x, pre_logits=True)
        if pre_logits:
            return x
        logits = self.head.fc(x), self.head_dist(x)
        if self.distilled_training and self.training:
            return logits
        return sum(logits) / 2

    def set_distilled_training(self, enable: bool = True) -> None:
        """Return the logits of both heads in training, for distillation."""
        self.distilled_training = enable

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        """The heads for the labels and for the teacher."""
        return self.head.fc, self.head_dist

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.head_dist = self._second_head()

    def _second_head(self) -> nn.Module:
        if not self.num_classes:
            return nn.Identity()
        like = self.norm.weight
        return nn.Linear(self.head.num_features, self.num_classes, device=like.device, dtype=like.dtype)


def _halving(dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, out_dim, 3, stride=2, padding=1), nn.BatchNorm2d(out_dim))


def _cfg(drive: str) -> dict[str, Any]:
    return dict(
        url="",  # Google Drive serves browsers alone
        origin_url=f"https://drive.google.com/file/d/{drive}",
        license="mit",
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.875,
        interpolation="bicubic",
        first_conv="patch_embed.0.0",
        classifier=("head.fc", "head_dist"),
    )


default_cfgs = generate_default_cfgs(
    {
        "casvit_xs": _cfg("16wKcwF6QMW5w_lyPYnDKjMNuoxQDfrLK"),
        "casvit_s": _cfg("1facFRq8s8oelYUtK1fj3fcfdoWoKDBQQ"),
        "casvit_m": _cfg("13sQpSEf0h_uuh0jRy9V0yIW6ZsbDpVGy"),
        "casvit_t": _cfg("1NqoIUPbwBC91RTjTUvubAbOfGqo1VYT0"),
    }
)


def _create(name: str, pretrained: bool, shape: dict[str, Any], options: dict[str, Any]) -> CasViT:
    return create(CasViT, name, pretrained, stages=4, **{**shape, **options})


@register_model
def casvit_xs(pretrained: bool = False, **kwargs: Any) -> CasViT:
    """CAS-ViT-XS, the defaults of `CasViT`."""
    return _create("casvit_xs", pretrained, {}, kwargs)


@register_model
def casvit_s(pretrained: bool = False, **kwargs: Any) -> CasViT:
    """CAS-ViT-S."""
    return _create("casvit_s", pretrained, dict(embed_dims=(48, 64, 128, 256), depths=(3, 3, 6, 3)), kwargs)


@register_model
def casvit_m(pretrained: bool = False, **kwargs: Any) -> CasViT:
    """CAS-ViT-M."""
    return _create("casvit_m", pretrained, dict(embed_dims=(64, 96, 192, 384), depths=(3, 3, 6, 3)), kwargs)


@register_model
def casvit_t(pretrained: bool = False, **kwargs: Any) -> CasViT:
    """CAS-ViT-T, the largest."""
    return _create("casvit_t", pretrained, dict(embed_dims=(96, 128, 256, 512), depths=(3, 3, 6, 3)), kwargs)
