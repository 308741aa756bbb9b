"""CAS-ViT XS and S: convolutional additive attention, which gates queries and keys instead of comparing them.

Source: Zhang et al., "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for Efficient Mobile
Applications", arXiv:2408.03703; details follow the authors' code for `rcvit_xs` and `rcvit_s`
(https://github.com/Tianfang-Zhang/CAS-ViT), whose MODEL_ZOO.md has the printed parameters.

    out = conv(Γ(Φ(Q) + Φ(K)) ⊙ V)      Φ(x) = C(S(x))

    S(x) = x ⊙ σ(w · ReLU(BN(conv x)))  one gate per position, for all channels
    C(x) = x ⊙ σ(W mean over positions of x)  one gate per channel, for all positions

where conv and Γ are depth-wise 3×3 convolutions. The convolutions that halve the map in the stem and between stages
round up, so images may have any size.

As in the authors' code, a second head learns from a teacher and the output is the mean of both heads; the published
number of parameters includes both. As in timm, both learn from the labels unless `set_distilled_training` is called.

Published parameters: 3.20 M for XS and 5.76 M for S; here 3,200,700 and 5,764,224. MACs at 224 px, as quoted by iFormer
(arXiv:2501.15369): 0.56 G and 0.93 G; here 0.55 G and 0.91 G in convolutions and linear layers, 0.55 G and 0.92 G with
the gates. Two MACs per element of batch normalisation make up the difference.
"""

from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath, Mlp, calculate_drop_path_rates
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import init_weights_vit_timm
from torch import Tensor, nn

from fvit.models.backbones.backbone import Backbone, Stage, check_stages


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


def _cfg() -> dict[str, Any]:
    return dict(
        url="",  # the authors' weights use other parameter names
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.875,
        interpolation="bicubic",
        first_conv="patch_embed.0.0",
        classifier=("head.fc", "head_dist"),
    )


default_cfgs = generate_default_cfgs({"casvit_xs": _cfg(), "casvit_s": _cfg()})


def _create(name: str, pretrained: bool, **kwargs: Any) -> CasViT:
    features = dict(feature_cls="hook", out_indices=(0, 1, 2, 3))
    return build_model_with_cfg(CasViT, name, pretrained, feature_cfg=features, **kwargs)


@register_model
def casvit_xs(pretrained: bool = False, **kwargs: Any) -> CasViT:
    """CAS-ViT-XS, the defaults of `CasViT`."""
    return _create("casvit_xs", pretrained, **kwargs)


@register_model
def casvit_s(pretrained: bool = False, **kwargs: Any) -> CasViT:
    """CAS-ViT-S."""
    shape = dict(embed_dims=(48, 64, 128, 256), depths=(3, 3, 6, 3))
    return _create("casvit_s", pretrained, **{**shape, **kwargs})
