"""FViT, and its names in timm's registry: fvit_{tiny,small,base}_patch{16,32}_{224,384}.

Source: Wen et al., "FViT", IEEE CAI 2024: the ViT of Dosovitskiy et al. (arXiv:2010.11929) with the additive
attention of Fastformer (arXiv:2108.09084) in every block.
"""

from collections.abc import Callable, Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from fvit.models.exchange import exchange
from fvit.models.layout import TellsLayout
from fvit.models.spec import AttentionSpec

__all__ = ["FViT"]

_SHAPES = {
    "tiny": dict(embed_dim=192, depth=12, num_heads=3),
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
}


class FViT(TellsLayout, VisionTransformer):
    """A timm VisionTransformer with exchanged attention; all other arguments are timm's.

    Args:
        attention: what `fvit.models.exchange` accepts; additive in all blocks by default.
        kwargs: timm's.

    Raises:
        ValueError: `attn_layer` is given, or the host cannot take the attention.
    """

    def __init__(
        self, *args: Any, attention: AttentionSpec | Sequence[AttentionSpec] = "additive", **kwargs: Any
    ) -> None:
        if "attn_layer" in kwargs:
            raise ValueError("FViT takes attention=… in place of timm's attn_layer=…")
        super().__init__(*args, **kwargs)
        exchange(self, attention)


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
    create.__doc__ = f"FViT: {shape['embed_dim']} wide, {shape['depth']} deep, patches of {shape['patch_size']} px."
    create.__module__ = __name__
    return create


def _register_all() -> None:
    cfgs = {}
    entrypoints = []
    for size, shape in _SHAPES.items():
        for patch_size in (16, 32):
            for img_size in (224, 384):
                name = f"fvit_{size}_patch{patch_size}_{img_size}"
                cfgs[name] = dict(
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
                entrypoints.append(_entrypoint(name, img_size=img_size, patch_size=patch_size, **shape))
    # timm's decorator reads the defaults from the entry point's module.
    globals()["default_cfgs"] = generate_default_cfgs(cfgs)
    for entrypoint in entrypoints:
        globals()[entrypoint.__name__] = register_model(entrypoint)


_register_all()
