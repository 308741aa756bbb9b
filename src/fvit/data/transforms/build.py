"""The transform of a split's images, from the hyperparameters of `fvit.data.ImageDataModule`."""

from collections.abc import Mapping, Sequence
from typing import Any

from fvit.data.formats.decode import Decoder
from fvit.data.transforms.five_crop import FiveCrop
from fvit.data.transforms.image import EvalTransform, TrainTransform
from fvit.data.transforms.naflex import NaFlexEval, NaFlexTrain


def train_transform(
    decoder: Decoder, size: int | Sequence[int], hp: Mapping[str, Any], augment: Mapping[str, Any]
) -> TrainTransform | EvalTransform:
    """For images of `size` in pixels; `augment` has arguments of `TrainTransform`, and ``no_aug`` to resize alone."""
    options = {"no_aug": True, **augment}
    patch_size, interpolation = hp["naflex"], hp["interpolation"]
    if options.pop("no_aug"):
        if patch_size:
            return NaFlexEval(decoder, size, patch_size, interpolation)
        return EvalTransform(decoder, size, 1.0, interpolation)
    options |= {"interpolation": interpolation, "mean": hp["mean"]}
    if patch_size:
        return NaFlexTrain(decoder, size, patch_size=patch_size, **options)
    return TrainTransform(decoder, size, **options)


def eval_transform(decoder: Decoder, hp: Mapping[str, Any]) -> EvalTransform:
    """For validation and test."""
    if hp["naflex"]:
        return NaFlexEval(decoder, hp["img_size"], hp["naflex"], hp["interpolation"])
    kind = FiveCrop if hp["eval_crops"] == 5 else EvalTransform
    return kind(decoder, hp["img_size"], hp["crop_pct"], hp["interpolation"], hp["crop_mode"])
