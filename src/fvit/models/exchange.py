"""Exchange the attention of a timm VisionTransformer."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from timm.layers import Attention
from timm.models import named_apply
from timm.models.vision_transformer import VisionTransformer, get_init_weights_vit
from torch import nn

from fvit.attention import Mechanism, bind, get

AttentionSpec = str | type[Mechanism] | Mapping[str, Any]
"""One mechanism: a name (or ``package.module:Class``), ``"name*count"`` inside a list, a class, or a mapping of `name`
and options."""


def exchange(
    model: VisionTransformer,
    attention: AttentionSpec | Sequence[AttentionSpec],
    blocks: Iterable[int] | None = None,
) -> VisionTransformer:
    """Replace the attention of `model`, in place, and tell the mechanisms how its tokens lie.

    Serves a finished model and one under construction (`fvit.models.FViT` calls it last thing) alike. The new
    parameters are initialised in the host's own way, on its device and in its dtype; the rest of the model is not
    touched. From then on `model.set_input_size` tells the mechanisms the new grid.

    Args:
        model: a timm VisionTransformer whose blocks hold timm's Attention or one of our mechanisms.
        attention: one mechanism for all blocks, or a list for them in order: ``["additive*8", "softmax*4"]``
            (``×`` works as well), ``[{"name": "additive", "logits": "full"}, …]``.
        blocks: indices of the blocks to exchange; all if None.

    Returns:
        `model`, its class a subclass of the former one.

    Raises:
        ValueError: the host cannot take a mechanism; a mechanism or an option is unknown; the list's length is not
            the number of blocks.
    """
    chosen = _choose_blocks(model, blocks)
    classes = expand(attention, len(chosen))
    # All are built before the first is put in: a refusal leaves the model as it was.
    new = {index: _replacement(model, index, cls) for index, cls in zip(chosen, classes, strict=True)}
    _check_class_token(model, new)
    for index, attn in new.items():
        model.blocks[index].attn = attn
    if not isinstance(model, TellsLayout):
        model.__class__ = _telling(type(model))
    return model


def expand(attention: AttentionSpec | Sequence[AttentionSpec], depth: int) -> list[type[Mechanism]]:
    """One class a block from what `exchange` accepts as `attention`."""
    if isinstance(attention, str | type | Mapping):
        return [_resolve(attention)] * depth
    if not isinstance(attention, Sequence):
        raise ValueError(f"attention={attention!r} is no name, mapping, Mechanism, or list of these")
    classes: list[type[Mechanism]] = []
    for item in attention:
        name, count = item, 1
        if isinstance(item, str) and (match := re.fullmatch(r"\s*([\w.:]+)\s*[*×]\s*(\d+)\s*", item)):
            name, count = match[1], int(match[2])
        classes += [_resolve(name)] * count
    if len(classes) != depth:
        raise ValueError(f"attention lists {len(classes)} blocks and the model has {depth} to fill: {list(attention)}")
    return classes


def _resolve(spec: AttentionSpec) -> type[Mechanism]:
    if isinstance(spec, str):
        return get(spec)
    if isinstance(spec, type) and issubclass(spec, Mechanism):
        return spec
    if not isinstance(spec, Mapping):
        raise ValueError(f"attention {spec!r} is no name, mapping or Mechanism")
    if "name" not in spec:
        raise ValueError(f"attention {dict(spec)} has no name; write name=additive, for example")
    return bind(get(spec["name"]), **{key: value for key, value in spec.items() if key != "name"})


def _choose_blocks(model: nn.Module, indices: Iterable[int] | None) -> list[int]:
    fits = (
        "hosts are timm's VisionTransformers with plain attention, such as vit_small_patch16_224, deit3_*, "
        "vit_*_clip_*, vit_*_dinov2; not Eva, BEiT, Swin, relative-position or parallel-scaling models"
    )
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"{type(model).__name__} has no exchangeable attention; {fits}")
    blocks = list(model.blocks)
    for index, block in enumerate(blocks):
        attn = getattr(block, "attn", None)
        if type(attn) is not Attention and not isinstance(attn, Mechanism):
            raise ValueError(
                f"block {index} of {type(model).__name__} is a {type(block).__name__} with "
                f"{type(attn).__name__} for attention, which is not exchangeable; {fits}"
            )
    if indices is None:
        return list(range(len(blocks)))
    indices = list(indices)
    if len(set(indices)) < len(indices):
        raise ValueError(f"blocks {indices} names a block twice")
    if wrong := [i for i in indices if not 0 <= i < len(blocks)]:
        raise ValueError(f"blocks {wrong} do not exist; the model has blocks 0 to {len(blocks) - 1}")
    return indices


def _check_fit(model: VisionTransformer, mechanism: Mechanism) -> None:
    name = type(mechanism).__name__
    if (mechanism.needs_grid or mechanism.fixed_length) and model.dynamic_img_size:
        raise ValueError(f"{name} needs one fixed grid; build the host with dynamic_img_size=False")
    if (mechanism.needs_grid or mechanism.fixed_length) and not isinstance(model.patch_drop, nn.Identity):
        raise ValueError(f"{name} needs all patches; build the host with patch_drop_rate=0")
    if model.fix_init:
        raise ValueError(
            "the host rescales attn.proj by depth, which other mechanisms lack; build it with fix_init=False"
        )
    if model.num_prefix_tokens and not mechanism.takes_prefix:
        raise ValueError(
            f"{name} takes no class or register tokens; "
            "build the host with class_token=False, reg_tokens=0 and global_pool=avg"
        )


def _check_class_token(model: VisionTransformer, new: Mapping[int, Mechanism]) -> None:
    """A head that reads the class token sees no image if no block brings any of it there."""
    attns = [new.get(index, block.attn) for index, block in enumerate(model.blocks)]
    if model.global_pool == "token" and not any(getattr(attn, "reaches_prefix", True) for attn in attns):
        names = " and ".join(sorted({type(attn).__name__ for attn in attns}))
        raise ValueError(
            f"the head reads the class token, to which {names} brings nothing of the patches; "
            "build the host with class_token=False and global_pool=avg"
        )


def _replacement(model: VisionTransformer, index: int, mechanism: type[Mechanism]) -> Mechanism:
    block = model.blocks[index]
    old = block.attn
    if isinstance(old, Mechanism):
        dim, args = old.dim, old.host_args
    else:
        dim, args = old.qkv.in_features, _read_host(old)
    # Of the block, since not every mechanism has parameters.
    parameter = next(block.parameters())
    new = mechanism(dim, **args, device=parameter.device, dtype=parameter.dtype)
    # What the host asked for, without the options that are bound to this mechanism alone.
    new.host_args = args
    _check_fit(model, new)
    # Before the initialisation, which so meets parameters of their final size.
    new.set_layout(tuple(model.patch_embed.grid_size), model.num_prefix_tokens, index)
    named_apply(get_init_weights_vit(model.weight_init_mode), new, name="attn", include_root=True)
    return new.train(old.training)


def _read_host(attn: Attention) -> dict[str, Any]:
    """The arguments that timm's Attention was built with."""
    if attn.attn_dim != attn.qkv.in_features or attn.proj.out_features != attn.attn_dim or attn.gate is not None:
        raise ValueError("the host's attention changes the width or is gated, and cannot be exchanged")
    normed = not isinstance(attn.q_norm, nn.Identity)
    return dict(
        num_heads=attn.num_heads,
        qkv_bias=attn.qkv.bias is not None,
        qk_norm=normed,
        scale_norm=not isinstance(attn.norm, nn.Identity),
        proj_bias=attn.proj.bias is not None,
        norm_layer=functools.partial(type(attn.q_norm), eps=attn.q_norm.eps) if normed else None,
        attn_drop=attn.attn_drop.p,
        proj_drop=attn.proj_drop.p,
    )


class TellsLayout:
    """Mixin of hosts: tells the mechanisms their grid, again whenever the input size changes."""

    def tell_layout(self) -> None:
        """Tell every mechanism the grid and the number of prefix tokens."""
        for index, block in enumerate(self.blocks):
            if isinstance(block.attn, Mechanism):
                block.attn.set_layout(tuple(self.patch_embed.grid_size), self.num_prefix_tokens, index)

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """timm's `set_input_size`, then `tell_layout`."""
        super().set_input_size(*args, **kwargs)
        self.tell_layout()


@functools.cache
def _telling(host: type[VisionTransformer]) -> type[VisionTransformer]:
    """`host` with `TellsLayout`: swapping a finished model's class keeps it deep-copyable, unlike bound hooks."""
    body = {"__doc__": host.__doc__, "__module__": host.__module__, "__reduce__": _reduce}
    return type(host.__name__, (TellsLayout, host), body)


def _reduce(model: VisionTransformer) -> tuple[Any, ...]:
    """Pickle by the host's class, which can be found by name, unlike the one made from it."""
    return _rebuild, (type(model).__bases__[1],), model.__dict__


def _rebuild(host: type[VisionTransformer]) -> VisionTransformer:
    cls = _telling(host)
    return cls.__new__(cls)
