"""A name in timm's registry for any model with exchanged attention: ``exchanged``, with the host as an argument.

It lets a folder with weights and timm's config.json describe such a model: see `fvit.models.export`.
"""

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from fvit.models.build import build
from fvit.models.spec import AttentionSpec, BlockSpec

__all__: list[str] = []

default_cfgs = generate_default_cfgs({"exchanged": dict(url="", input_size=(3, 224, 224), num_classes=1000)})


@register_model
def exchanged(
    pretrained: bool = False,
    host: str = "vit_tiny_patch16_224",
    attention: AttentionSpec | Sequence[AttentionSpec] = "additive",
    blocks: BlockSpec | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A timm model with its attention exchanged, for ``timm.create_model("exchanged", host=…, attention=…)``.

    Args:
        pretrained: load the weights that timm's config names, a folder's for ``local-dir:``.
        host: one of ``timm.list_models()``.
        attention: as for `fvit.models.exchange`.
        blocks: the blocks to exchange; all if None.
        kwargs: timm's, and the host's; `img_size` is 224 if it is not given.
    """

    def make(img_size: int | Sequence[int] = 224, num_classes: int = 1000, **options: Any) -> nn.Module:
        side = img_size if isinstance(img_size, int) else img_size[0]
        return build(host, side, num_classes, attention, blocks, **options)

    return build_model_with_cfg(make, "exchanged", pretrained, **kwargs)
