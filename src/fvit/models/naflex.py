"""What `fvit.data.transforms.naflex` makes of images, as the input of timm's NaFlexVit."""

import torch
from timm.layers import to_2tuple
from timm.models.naflexvit import NaFlexVit
from torch import Tensor, nn


def unpack(patches: Tensor) -> dict[str, Tensor]:
    """The arguments of NaFlexVit.

    Args:
        patches: [B, N, 3 P² + 3]: normalised pixels of each patch, its row and column, and 1, or 0 for padding.
    """
    return {
        "patches": patches[..., :-3],
        "patch_coord": patches[..., -3:-1].to(torch.int64),
        "patch_valid": patches[..., -1] > 0.5,
    }


@torch.no_grad()
def check_naflex(model: nn.Module, patch_size: int) -> None:
    """Raise ValueError unless `model` takes padded sequences of patches of this size, and hides the padding."""
    if not isinstance(model, NaFlexVit):
        raise ValueError(
            f"data.naflex={patch_size} needs a NaFlexVit, such as model=timm model.name=naflexvit_base_patch16_gap, "
            f"and not {type(model).__name__}"
        )
    if to_2tuple(model.get_patch_size()) != (patch_size, patch_size):
        raise ValueError(
            f"data.naflex={patch_size}: the patches of this model have {to_2tuple(model.get_patch_size())[0]} px"
        )
    two = torch.zeros(1, 2, 3 * patch_size**2 + 3)
    two[0, 0, -1] = 1  # the other is padding
    parameter, training = next(model.parameters()), model.training
    model.eval()
    try:
        model(unpack(two.to(parameter)))  # a mechanism that can hide no token says so
    finally:
        model.train(training)
