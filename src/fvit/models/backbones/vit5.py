"""ViT-5: timm's Eva with the parts that ViT-5 takes from language models, and rotary positions for the registers.

Source: Wang et al., "ViT-5: Vision Transformers for the Mid-2020s", arXiv:2602.08071.

A ViT with a class token and four registers, RMSNorm, normalised queries and keys, LayerScale, no biases of queries,
keys and values, an MLP with GELU, and both learned and rotary 2-D positions. timm's Eva has all of it but one: the
registers are rotated too, as a 2 × 2 grid of their own with the base 100 (patches: 10,000); the class token is not.
The authors put the registers behind the patches, which makes no difference.

Stochastic depth grows with depth, as in all models of timm; the authors' rate is the same in all blocks.

Code: wangf3014/ViT-5 (Apache-2.0).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import RmsNorm, RotaryEmbeddingCat
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.eva import Eva, checkpoint_filter_fn
from torch import Tensor

__all__ = ["ViT5"]

_SHAPES = {
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
    "large": dict(embed_dim=1024, depth=24, num_heads=16),
    "xlarge": dict(embed_dim=1152, depth=28, num_heads=16),
}


class ViT5(Eva):
    """timm's Eva with ViT-5's options as defaults; all arguments are timm's.

    Args:
        num_reg_tokens: number of registers, a square.

    Raises:
        ValueError: `num_reg_tokens` is no square.
    """

    fix_init = False  # no projection is scaled by depth, unlike in timm's Eva

    def __init__(
        self,
        *args: Any,
        num_reg_tokens: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        side = math.isqrt(num_reg_tokens)
        if side**2 != num_reg_tokens:
            raise ValueError(
                f"num_reg_tokens={num_reg_tokens} must be a square, because ViT-5's registers lie on a square grid; "
                f"use {side**2} or {(side + 1) ** 2}"
            )
        published = dict(
            qkv_bias=False,
            qk_norm=True,
            norm_layer=RmsNorm,
            init_values=1e-4,
            global_pool="token",
            no_embed_class=True,
            use_rot_pos_emb=True,
            head_init_scale=0.0,  # the head is initialised as every Linear is
        )
        factory = dict(device=device, dtype=dtype)
        super().__init__(*args, num_reg_tokens=num_reg_tokens, **{**published, **kwargs}, **factory)
        attns = [block.attn for block in self.blocks]
        self.register_rope = RotaryEmbeddingCat(
            attns[0].head_dim, temperature=100.0, in_pixels=False, feat_shape=(side, side), **factory
        )
        for attn in attns:
            attn.num_prefix_tokens -= num_reg_tokens  # to timm's attention, the tokens that are not rotated

    def fix_init_weight(self) -> None:
        """Nothing: see `fix_init`."""

    def _pos_embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens, and the rotation of all but the class token, [1 + 4 + patches, C] and [4 + patches, 2 · C / H]."""
        x, rope = super()._pos_embed(x)
        if rope is None:
            return x, rope
        registers = self.register_rope.get_embed().expand(*rope.shape[:-2], -1, -1)
        return x, torch.cat([registers, rope], dim=-2)


def _cfg(file: str, img_size: int = 224) -> dict[str, Any]:
    return dict(
        url=f"https://huggingface.co/FengWang3211/ViT-5/resolve/main/{file}.pth" if file else "",
        license="apache-2.0",
        num_classes=1000,
        input_size=(3, img_size, img_size),
        fixed_input_size=True,
        crop_pct=1.0,
        interpolation="bicubic",
        first_conv="patch_embed.proj",
        classifier="head",
    )


# timm's decorator reads this variable of the module.
default_cfgs = generate_default_cfgs(
    {
        "vit5_small_patch16_224": _cfg("vit5_small_patch16_224"),
        "vit5_base_patch16_224": _cfg("vit5_base_patch16_224"),
        "vit5_base_patch16_384": _cfg("vit5_base_patch16_384", 384),
        "vit5_large_patch16_224": _cfg("vit5_large_patch16_224"),
        "vit5_large_patch16_384": _cfg("vit5_large_patch16_384", 384),
        "vit5_xlarge_patch16_224": _cfg(""),  # in the authors' code alone
    }
)


def _entrypoint(name: str) -> Callable[..., ViT5]:
    _, size, _, img_size = name.split("_")

    def create(pretrained: bool = False, out_indices: int | Sequence[int] = 3, **kwargs: Any) -> ViT5:
        return build_model_with_cfg(
            ViT5,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg=dict(out_indices=out_indices, feature_cls="getter"),
            **{"img_size": int(img_size), **_SHAPES[size], **kwargs},
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"ViT-5 of width {_SHAPES[size]['embed_dim']} and depth {_SHAPES[size]['depth']}."
    create.__module__ = __name__
    return create


for _name in default_cfgs:
    globals()[_name] = register_model(_entrypoint(_name))
