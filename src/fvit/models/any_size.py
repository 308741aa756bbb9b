"""The forward pass on images of another size than the model was built for, with weights resampled on the fly.

For training at growing resolutions: the model keeps its weights for the full size, and a smaller image sees resampled
ones. So neither the optimizer's state nor a checkpoint depends on the size of the last batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

from fvit.attention import Mechanism
from fvit.attention.base import Size
from fvit.attention.fixed_length import FixedLength, TokenLayout, resample_tokens
from fvit.attention.tables import LayoutTables
from fvit.models.naflex import unpack


def forward_any_size(model: nn.Module, images: Tensor) -> Tensor:
    """``model(images)``, also for images [B, 3, H, W] that are not of the size that the model was built for.

    Images [B, N, 3 P² + 3] are padded patches for NaFlexVit.

    In timm's VisionTransformers, the position embedding and the parameters of `FixedLength` mechanisms are resampled
    to the grid of the images, as `set_input_size` would, but differentiably: their gradients reach the weights for the
    full grid. Other models see the images as they are; convolutional ones take any size.

    Raises:
        ValueError: the images do not divide into patches.
    """
    if images.ndim == 3:
        return model(unpack(images))
    size, patches = tuple(images.shape[-2:]), getattr(model, "patch_embed", None)
    if not isinstance(model, VisionTransformer) or not isinstance(patches, PatchEmbed) or model.dynamic_img_size:
        return model(images)
    if patches.img_size in (None, size):
        return model(images)
    if any(side % patch for side, patch in zip(size, patches.patch_size, strict=True)):
        raise ValueError(f"they do not divide into patches of {patches.patch_size[0]} px")
    full = patches.grid_size
    grid = tuple(side // patch for side, patch in zip(size, patches.patch_size, strict=True))
    weights = _resampled(model, full, grid)
    with _built_for(model, size, grid):
        return functional_call(model, weights, (images,))


def check_sizes(model: nn.Module, sizes: Sequence[int], recomputes: bool = False) -> None:
    """Raise ValueError unless `model` takes square images of each of these sizes; computes nothing.

    With `recomputes`, which is gradient checkpointing, no part of a block may depend on the size: the backward pass
    finds the layout and the weights of the full one.
    """
    for size in sizes:
        meta = {f"model.{name}": t.to("meta") for name, t in [*model.named_parameters(), *model.named_buffers()]}
        dtype, training = next(model.parameters()).dtype, [part for part in model.modules() if part.training]
        model.eval()  # in training mode, batch norm rejects a feature map of one position and one image
        try:
            with torch.no_grad():
                functional_call(_AnySize(model), meta, torch.empty(1, 3, size, size, device="meta", dtype=dtype))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(
                f"{type(model).__name__} cannot be trained on images of {size} px, which data.size_schedule has: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
        finally:
            for part in training:
                part.training = True
    resized = [
        part for part in model.modules() if isinstance(part, Mechanism) and (part.needs_grid or part.fixed_length)
    ]
    if resized and recomputes and sizes:
        raise ValueError(
            f"{type(resized[0]).__name__} depends on the size of the images, and grad_checkpointing=true recomputes it "
            "at another one: set grad_checkpointing=false, or leave data.size_schedule out"
        )


class _AnySize(nn.Module):
    """A model as a part, so that all its weights can be replaced around `forward_any_size`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return forward_any_size(self.model, images)


def _resampled(model: VisionTransformer, old: Size, new: Size) -> dict[str, Tensor]:
    """The weights that depend on the grid, by name, for a new grid."""
    weights = {}
    if model.pos_embed is not None:
        prefix = model.pos_embed.shape[1] - old[0] * old[1]
        weights["pos_embed"] = resample_tokens(model.pos_embed, 1, TokenLayout(*old, prefix), TokenLayout(*new, prefix))
    for owner, part in model.named_modules():
        if isinstance(part, FixedLength):
            layout = TokenLayout(*new, part.layout.prefix)
            for name in part.token_axes:
                weights[f"{owner}.{name}"] = part.resample(name, attrgetter(name)(part), part.layout, layout)
    return weights


@contextmanager
def _built_for(model: VisionTransformer, size: Size, grid: Size) -> Iterator[None]:
    """Tell the model's parts another size, without the resampling of `set_input_size`, which is for good."""
    patches, mechanisms = model.patch_embed, [part for part in model.modules() if isinstance(part, Mechanism)]
    tables = [part for part in model.modules() if isinstance(part, LayoutTables)]
    full_grid, full = patches.grid_size, patches.img_size
    layouts = [(part.grid_size, getattr(part, "layout", None)) for part in mechanisms]
    patches.set_input_size(size)
    for part, (_, layout) in zip(mechanisms, layouts, strict=True):
        part.grid_size = grid
        if layout is not None:
            part.layout = TokenLayout(*grid, layout.prefix)
    for part in tables:
        part.set_layout(grid, part.num_prefix_tokens)
    try:
        yield
    finally:
        patches.set_input_size(full)
        for part in tables:
            part.set_layout(full_grid, part.num_prefix_tokens)
        for part, (old, layout) in zip(mechanisms, layouts, strict=True):
            part.grid_size = old
            if layout is not None:
                part.layout = layout
