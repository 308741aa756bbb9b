"""Leaving out what a head on the class token never reads: the rest of the last block."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from fvit.attention import Mechanism

_PASSES = ("_pos_embed", "forward_features", "pool", "forward_head")


class TrimmedBlock(Block):
    """timm's Block, which can be asked for its first token alone; otherwise, and in its weights, the same."""

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, first: bool = False
    ) -> Tensor:
        """Tokens [B, N, C] to [B, N, C], or to [B, 1, C] if only the `first` is wanted."""
        if not first:
            return super().forward(x, attn_mask=attn_mask, is_causal=is_causal)
        mixed = self.attn.first(self.norm1(x), 1, attn_mask, is_causal)
        x = x[:, :1] + self.drop_path1(self.ls1(mixed))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def why_not(model: nn.Module) -> str | None:
    """Why the last block of `model` cannot be trimmed; None if it can, with the same logits and gradients."""
    # Sharding makes a subclass of each block's class, so that a trimmed one is told by what it inherits.
    if not isinstance(model, VisionTransformer) or not (
        type(model.blocks[-1]) is Block or isinstance(model.blocks[-1], TrimmedBlock)
    ):
        return f"{type(model).__name__} is no VisionTransformer of plain blocks"
    if _has_own_passes(type(model)):
        return f"{type(model).__name__} has a head or a forward pass of its own"
    if not isinstance(model.blocks[-1].attn, Mechanism):
        return "the attention of its last block is timm's own; take attention=softmax, which is the same"
    if model.global_pool != "token" or model.attn_pool is not None:
        return f"its head reads more than the class token (global_pool={model.global_pool})"
    return None


def _has_own_passes(kind: type[VisionTransformer]) -> bool:
    """Whether a class replaces any method that `_forward` calls, or that it stands in for."""
    # With `Trims` or without it, the forward pass must be timm's.
    forwards = {vars(base)["forward"] for base in kind.__mro__ if "forward" in vars(base)} - {Trims.forward}
    timms = {vars(base)["forward"] for base in VisionTransformer.__mro__ if "forward" in vars(base)}
    return forwards != timms or any(getattr(kind, name) is not getattr(VisionTransformer, name) for name in _PASSES)


def trim(model: nn.Module) -> None:
    """Let `model` compute of its last block what its head reads. In place; weights and their names stay.

    `forward_features` and `forward_intermediates` go on to give all tokens, and so does a forward pass after
    `reset_classifier` has changed the pooling. Stochastic depth draws as before, dropout draws for fewer elements.

    Raises:
        ValueError: the head reads more than the class token, or the host is none whose last block is known.
    """
    reason = why_not(model)
    if reason is not None:
        raise ValueError(f"trim_last has no effect here: {reason}; set model.trim_last=false, or leave it to be chosen")
    model.blocks[-1].__class__ = TrimmedBlock
    model.trims_last = True


@contextmanager
def untrimmed(*models: nn.Module) -> Iterator[None]:
    """Inside, `models` compute all tokens of their last blocks, trimmed or not."""
    trimmed = [model for model in models if getattr(model, "trims_last", False)]
    for model in trimmed:
        model.trims_last = False
    try:
        yield
    finally:
        for model in trimmed:
            model.trims_last = True


class Trims:
    """Mixin of hosts: the forward pass that goes with `trim`."""

    trims_last = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """timm's, without what its head would not read."""
        if not self.trims_last or why_not(self) is not None:
            return super().forward(x, *args, **kwargs)
        return _forward(self, x, *args, **kwargs)


def _forward(model: VisionTransformer, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    before = model.blocks[:-1]
    if attn_mask is not None or is_causal:
        for block in before:
            x = block(x, attn_mask=attn_mask, is_causal=is_causal)
    elif model.grad_checkpointing and not torch.jit.is_scripting():
        x = checkpoint_seq(before, x)
    else:
        x = before(x)
    # Called as a module, so that hooks and sharding see it.
    x = model.blocks[-1](x, attn_mask=attn_mask, is_causal=is_causal, first=True)
    return model.forward_head(model.norm(x))
