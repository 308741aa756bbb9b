"""Where a model looks: for each block the weights that its attention gives to the patches of an image."""

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
from fvit.models.hosts import Site, sites


class AttentionMap(NamedTuple):
    """What one attention gives to the patches.

    Attributes:
        block: index of the block.
        name: ``query`` and ``key``, additive attention's α and β; ``map``, what the reader looks at in an N×N map;
            ``jacobian``, how much each patch moves what the reader gets, where there is no map.
        weights: [B, H, rows, columns]; H is 1 where there are no heads. Prefix tokens are left out, so that the
            weights of a softmax sum to what is left for the patches.
    """

    block: int
    name: str
    weights: Tensor


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> list[AttentionMap]:
    """The maps of all blocks for images [B, 3, H, W], in order of the blocks, whose grids may differ.

    The reader is what the head reads: the class token, or the mean of the patches where the head pools. Of a map with
    a row a query the class token's row is shown, or the mean of the patches' rows (in Swin, of a window's); likewise
    the Jacobian.

    Args:
        model: a host of `fvit.models.exchange`, in evaluation, with our mechanisms or timm's own attention.
        images: normalised, of the model's size.

    Raises:
        ValueError: the model has no attention in blocks.
    """
    try:
        all_sites = sites(model)
    except ValueError as error:
        raise ValueError(f"there are no attention maps to show: {error}") from error
    reads_class_token = all_sites[0].prefix > 0 and getattr(model, "global_pool", None) == "token"
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    with ExitStack() as stack:
        for site in all_sites:
            keep = partial(_keep_call, calls, site.index)
            stack.callback(site.block.attn.register_forward_pre_hook(keep, with_kwargs=True).remove)
        model(images)
    found = []
    for site in all_sites:
        for name, weights_bhn in _look(site, *calls[site.index], reads_class_token).items():
            if isinstance(model, SwinTransformer):
                patches = _join_windows(site.block, weights_bhn)
            else:
                patches = weights_bhn[..., site.prefix :]
                patches = patches.unflatten(-1, _grid(site, patches.shape[-1], *images.shape[-2:]))
            found.append(AttentionMap(site.index, name, patches.float().cpu()))
    return found


def _join_windows(block: nn.Module, weights_bhn: Tensor) -> Tensor:
    """Weights inside of windows, [B·W, H, N], in the order of timm's block of Swin, as [B, H, rows, columns]."""
    size, window = block.input_resolution, block.window_size
    padded = [-(-length // part) * part for length, part in zip(size, window, strict=True)]
    whole = window_reverse(weights_bhn.mT.unflatten(1, window), window, *padded)[:, : size[0], : size[1]]
    return whole.roll(block.shift_size, dims=(1, 2)).permute(0, 3, 1, 2)


def _grid(site: Site, patches: int, height: int, width: int) -> Size:
    """Rows and columns: a host that takes images of any size has another grid for them than it tells."""
    if site.grid[0] * site.grid[1] == patches:
        return site.grid
    side = (height * width / patches) ** 0.5
    return round(height / side), round(width / side)


def _keep_call(
    calls: dict[int, Any], index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    calls[index] = args, kwargs


def _look(site: Site, args: tuple[Any, ...], kwargs: dict[str, Any], reads_class_token: bool) -> dict[str, Tensor]:
    """The weights [B, H, N] of a site's tokens, by name."""
    attn = site.block.attn
    mechanism = site.mechanism
    found = _native(attn, args, kwargs) if mechanism is None else _own(attn, mechanism, args, kwargs)
    if found:
        first = slice(0, 1) if reads_class_token else slice(site.prefix, None)
        return {name: w if w.ndim == 3 else w[:, :, first].mean(dim=2) for name, w in found.items()}
    if kwargs.get("mask") is not None:
        raise ValueError(
            f"{type(mechanism or attn).__name__} honours masks between tokens of shifted windows and does not tell its "
            "weights: have it override Mechanism.weights"
        )
    x, *others = args

    def read(tokens: Tensor) -> Tensor:
        out = attn(tokens, *others, **kwargs)
        return out[:, 0] if reads_class_token else out[:, site.prefix :].mean(dim=1)

    return {"jacobian": sensitivity(read, x).unsqueeze(1)}


def _own(attn: nn.Module, mechanism: Mechanism, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of one of our mechanisms, called as its host calls it."""
    if mechanism is attn:
        return mechanism.weights(*args, **kwargs)
    found: dict[str, Tensor] = {}

    def note(module: Mechanism, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.update(module.weights(*args, **kwargs))

    # The adapter knows what of the host's arguments reaches the mechanism.
    hook = mechanism.register_forward_pre_hook(note, with_kwargs=True)
    attn(*args, **kwargs)
    hook.remove()
    return found


def _native(attn: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """The map of timm's own attention: what its dropout gets on the way that is not fused; empty if there is none."""
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
