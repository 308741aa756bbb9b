"""Where a model starts: the weights of another one, whatever its attention and the size of its images."""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from timm.layers import to_2tuple
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

from fvit.attention.base import Size
from fvit.models.exchange import carry_over, exchange
from fvit.models.spec import AttentionSpec, BlockSpec, same_blocks, same_mechanisms
from fvit.models.transfer import WeightTransfer, matching_weights, transfer_weights

log = logging.getLogger(__name__)

_RESIZABLE = (VisionTransformer, Beit, Eva, VisionTransformerRelPos)
"""Hosts whose weights are shaped by the grid of patches, with timm's `set_input_size`, which resamples them."""


class Source(NamedTuple):
    """The model of which weights are.

    Attributes:
        attention: as `exchange` accepts it; None for the host's own.
        blocks: the blocks that have it; all if None.
        img_size: the size of its images in pixels; None if it is unknown.
    """

    attention: AttentionSpec | Sequence[AttentionSpec] | None
    blocks: BlockSpec | None
    img_size: int | Size | None


def start(
    model: nn.Module,
    attention: AttentionSpec | Sequence[AttentionSpec] | None,
    blocks: BlockSpec | None,
    keep: Sequence[str] | None,
    weights: Mapping[str, Tensor],
    source: Source | None,
    outputs: Sequence[int | None] | None,
) -> nn.Module:
    """Load `weights` into the host `model` and exchange its attention, in place; arguments as in `build`.

    Raises:
        ValueError: no weight fits, the attention cannot be exchanged, or `keep` has no effect.
    """
    if source is not None and same_mechanisms(source.attention, attention) and same_blocks(source.blocks, blocks):
        _refuse(keep)
        if attention is not None:
            exchange(model, attention, blocks, keep=())
            model.exchange_report = ()  # its initialised weights are replaced
        model.weight_transfer = load_weights(model, weights, outputs, source.img_size)
    elif source is not None and source.attention is not None:
        other = exchange(copy.deepcopy(model), source.attention, source.blocks, keep=())
        model.weight_transfer = load_weights(other, weights, outputs, source.img_size)
        if attention is not None:
            exchange(model, attention, blocks, keep=())
        carry_over(other, model, keep)
    else:
        model.weight_transfer = load_weights(model, weights, outputs, source and source.img_size)
        if attention is not None:
            exchange(model, attention, blocks, keep)
            # Of an unknown model, which may have had this attention.
            if source is None and matching_weights(model, weights) > len(model.weight_transfer.loaded):
                _refuse(keep)
                model.weight_transfer = transfer_weights(model, weights, outputs)
                model.exchange_report = ()
    if source is not None:
        log_resampling(model, source.img_size)
    return model


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    outputs: Sequence[int | None] | None = None,
    img_size: int | Size | None = None,
) -> WeightTransfer:
    """`transfer_weights` of a model of the same kind for images of `img_size` pixels, resampled to those of `model`."""
    if not _resamples(model, img_size):
        return transfer_weights(model, weights, outputs)
    own = tuple(model.patch_embed.img_size)
    model.set_input_size(img_size=to_2tuple(img_size))
    transfer = transfer_weights(model, weights, outputs)
    model.set_input_size(img_size=own)
    return transfer


def log_resampling(model: nn.Module, img_size: int | Size | None) -> None:
    """Say that `load_weights` has resampled weights for images of `img_size` pixels, if it has."""
    if _resamples(model, img_size):
        size = *to_2tuple(img_size), *model.patch_embed.img_size
        log.info("weights for images of %d × %d px, resampled to %d × %d", *size)


def _resamples(model: nn.Module, img_size: int | Size | None) -> bool:
    own = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if img_size is None or own is None or not isinstance(model, _RESIZABLE) or to_2tuple(img_size) == tuple(own):
        return False
    # Sizes that do not divide are of other patches.
    return not any(side % patch for side, patch in zip(to_2tuple(img_size), model.patch_embed.patch_size, strict=True))


def _refuse(keep: Sequence[str] | None) -> None:
    if keep:
        raise ValueError(
            f"keep={keep!r} has no effect with weights of a model that has the same attention: all are loaded"
        )
