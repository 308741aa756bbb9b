"""Names in timm's registry: FViT, as fvit_{tiny,small,base}_patch{16,32}_{224,384}, and ``exchanged`` for any host.

Source of FViT: Wen et al., "FViT", IEEE CAI 2024: the ViT of Dosovitskiy et al. (arXiv:2010.11929) with the additive
attention of Fastformer (arXiv:2108.09084) in every block.
"""

from collections.abc import Callable, Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from fvit.models.build import build
from fvit.models.exchange import ExchangedHost, exchange
from fvit.models.spec import AttentionSpec, BlockSpec

__all__ = ["FViT"]

_SHAPES = {
    "tiny": dict(embed_dim=192, depth=12, num_heads=3),
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
}


class FViT(ExchangedHost, VisionTransformer):
    """A timm VisionTransformer with `attention` as `exchange` accepts it; all other arguments are timm's.

    Raises:
        ValueError: `attn_layer` is given, or the host cannot take the attention.
    """

    def __init__(
        self, *args: Any, attention: AttentionSpec | Sequence[AttentionSpec] = "additive", **kwargs: Any
    ) -> None:
        if "attn_layer" in kwargs:
            raise ValueError("FViT takes attention=… instead of timm's attn_layer=…")
        super().__init__(*args, **kwargs)
        exchange(self, attention, keep=())


def _entrypoint(name: str, **shape: Any) -> Callable[..., FViT]:
    def create(pretrained: bool = False, out_indices: int | Sequence[int] = 3, **kwargs: Any) -> FViT:
        return build_model_with_cfg(
            FViT,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg=dict(out_indices=out_indices, feature_cls="getter"),
            **{**shape, **kwargs},
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = (
        f"FViT of width {shape['embed_dim']} and depth {shape['depth']}, patches of {shape['patch_size']} px."
    )
    create.__module__ = __name__
    return create


def _cfg(img_size: int) -> dict[str, Any]:
    return dict(
        url="",  # no weights were ever published
        num_classes=1000,
        input_size=(3, img_size, img_size),
        fixed_input_size=True,
        crop_pct=1.0 if img_size == 384 else 0.9,
        interpolation="bicubic",
        first_conv="patch_embed.proj",
        classifier="head",
        license="mit",
    )


_ENTRYPOINTS = [
    (img_size, _entrypoint(f"fvit_{size}_patch{patch}_{img_size}", img_size=img_size, patch_size=patch, **shape))
    for size, shape in _SHAPES.items()
    for patch in (16, 32)
    for img_size in (224, 384)
]

# timm's decorator reads this variable of the module.
default_cfgs = generate_default_cfgs(
    {
        **{entrypoint.__name__: _cfg(img_size) for img_size, entrypoint in _ENTRYPOINTS},
        "exchanged": dict(url="", input_size=(3, 224, 224), num_classes=1000),
    }
)

for _, entrypoint in _ENTRYPOINTS:
    globals()[entrypoint.__name__] = register_model(entrypoint)


@register_model
def exchanged(
    pretrained: bool = False,
    host: str = "vit_tiny_patch16_224",
    attention: AttentionSpec | Sequence[AttentionSpec] = "additive",
    blocks: BlockSpec | None = None,
    **kwargs: Any,
) -> nn.Module:
    """The timm model `host` after `exchange`, so that timm's config.json can describe it (`fvit.models.export`).

    `img_size` is 224 by default; all other arguments are timm's and the host's.
    """

    def make(img_size: int | Sequence[int] = 224, num_classes: int = 1000, **options: Any) -> nn.Module:
        return build(host, img_size, num_classes, attention, blocks, **options)

    return build_model_with_cfg(make, "exchanged", pretrained, **kwargs)
