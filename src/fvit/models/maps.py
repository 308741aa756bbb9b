"""Attention maps: for each block, how much its attention attends to each patch of an image."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.models.swin_transformer import SwinTransformer, window_reverse
from torch import Tensor, nn

from fvit.attention import Mechanism
from fvit.attention.base import Size
from fvit.attention.saliency import sensitivity
from fvit.models.adapters import RotaryAdapter
from fvit.models.hosts import Site, sites

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


class AttentionMap(NamedTuple):
    """How much one block attends to each patch.

    Attributes:
        block: index of the block.
        name: ``query`` and ``key`` for α and β of additive attention; ``map`` for the rows of an N×N map that the head
            reads; ``jacobian`` for mechanisms without attention weights: the sensitivity of the block's output to each
            patch.
        weights: [B, H, rows, columns], with H = 1 if there are no heads. Prefix tokens are left out, so the weights of
            a softmax sum to what remains for the patches.
    """

    block: int
    name: str
    weights: Tensor


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> list[AttentionMap]:
    """The maps of all blocks for images [B, 3, H, W], in order of the blocks.

    Maps show what the head reads: of an N×N map the row of the class token, or the mean over the patches' rows if the
    head pools (in Swin, over a window's); likewise for the Jacobian.

    Args:
        model: a host of `fvit.models.exchange` in evaluation mode, with mechanisms or timm's own attention.
        images: normalised, of the model's size.

    Raises:
        ValueError: the model has no such attention.
    """
    try:
        all_sites = sites(model)
    except ValueError as error:
        raise ValueError(f"there are no attention maps: {error}") from error
    reads_class_token = all_sites[0].prefix > 0 and getattr(model, "global_pool", None) == "token"
    calls: dict[int, Call] = {}

    def record(index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[index] = args, kwargs

    with ExitStack() as stack:
        for site in all_sites:
            hook = site.block.attn.register_forward_pre_hook(partial(record, site.index), with_kwargs=True)
            stack.callback(hook.remove)
        model(images)
    found = []
    for site in all_sites:
        for name, weights_bhn in _site_weights(site, calls[site.index], reads_class_token).items():
            if isinstance(model, SwinTransformer):
                patches = _join_windows(site.block, weights_bhn)
            else:
                patches = weights_bhn[..., site.prefix :]
                patches = patches.unflatten(-1, _grid(site, patches.shape[-1], *images.shape[-2:]))
            found.append(AttentionMap(site.index, name, patches.float().cpu()))
    return found


def _join_windows(block: nn.Module, weights_bhn: Tensor) -> Tensor:
    """Weights inside windows, [B·W, H, N], as [B, H, rows, columns]; undoes the partition of timm's Swin block."""
    size, window = block.input_resolution, block.window_size
    padded = [-(-length // part) * part for length, part in zip(size, window, strict=True)]
    whole = window_reverse(weights_bhn.mT.unflatten(1, window), window, *padded)[:, : size[0], : size[1]]
    return whole.roll(block.shift_size, dims=(1, 2)).permute(0, 3, 1, 2)


def _grid(site: Site, patches: int, height: int, width: int) -> Size:
    """Rows and columns; hosts that take images of any size may have another grid for these than `site.grid`."""
    if site.grid[0] * site.grid[1] == patches:
        return site.grid
    side = (height * width / patches) ** 0.5
    return round(height / side), round(width / side)


def _site_weights(site: Site, call: Call, reads_class_token: bool) -> dict[str, Tensor]:
    """Attention weights [B, H, N] at a site, by name."""
    attn, mechanism, (args, kwargs) = site.block.attn, site.mechanism, call
    found = _timm_weights(attn, call) if mechanism is None else _mechanism_weights(attn, mechanism, call)
    if found:
        rows = slice(0, 1) if reads_class_token else slice(site.prefix, None)
        return {name: w if w.ndim == 3 else w[:, :, rows].mean(dim=2) for name, w in found.items()}
    if kwargs.get("mask") is not None:
        raise ValueError(
            f"{type(mechanism or attn).__name__} takes the masks of shifted windows but has no attention weights: "
            "override Mechanism.weights"
        )
    x, *others = args

    def read(tokens: Tensor) -> Tensor:
        out = attn(tokens, *others, **kwargs)
        return out[:, 0] if reads_class_token else out[:, site.prefix :].mean(dim=1)

    return {"jacobian": sensitivity(read, x).unsqueeze(1)}


def _mechanism_weights(attn: nn.Module, mechanism: Mechanism, call: Call) -> dict[str, Tensor]:
    """`Mechanism.weights` with the arguments that reach the mechanism, through an adapter if there is one."""
    args, kwargs = call
    if mechanism is attn or isinstance(attn, RotaryAdapter):
        return attn.weights(*args, **kwargs)
    found: dict[str, Tensor] = {}

    def record(module: Mechanism, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.update(module.weights(*args, **kwargs))

    hook = mechanism.register_forward_pre_hook(record, with_kwargs=True)
    attn(*args, **kwargs)
    hook.remove()
    return found


def _timm_weights(attn: nn.Module, call: Call) -> dict[str, Tensor]:
    """The map of timm's own attention: the input of its dropout when it is not fused; empty if it has none."""
    args, kwargs = call
    drop = getattr(attn, "attn_drop", None)
    if not isinstance(drop, nn.Module):
        return {}
    found: dict[str, Tensor] = {}
    hook = drop.register_forward_pre_hook(lambda module, args: found.update(map=args[0]))
    with _unfused(attn):
        attn(*args, **kwargs)
    hook.remove()
    return found


@contextmanager
def _unfused(attn: nn.Module) -> Iterator[None]:
    fused = getattr(attn, "fused_attn", None)
    if fused is not None:
        attn.fused_attn = False
    yield
    if fused is not None:
        attn.fused_attn = fused
