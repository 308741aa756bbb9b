"""Images without labels, in order, prepared as those of validation are."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fvit.data.faults import Fault
from fvit.data.formats import decode
from fvit.data.images import Images
from fvit.data.loading import Loaded, collate
from fvit.data.sampler import Block
from fvit.data.transforms.batch import BatchTransform
from fvit.data.transforms.image import EvalTransform

_MANY = 4  # batches, from which on processes are worth their start


class Seen(NamedTuple):
    """A batch.

    Attributes:
        files: where each image lies.
        pixels: uint8 [B, H, W, 3], cut as the model sees them.
        images: float32 [B, 3, H, W], normalised, on the device.
        faults: of this batch's images those that could not be read; they are not among the others.
    """

    files: list[str]
    pixels: Tensor
    images: Tensor
    faults: tuple[Fault, ...]


def stream(
    images: Images, trained: Mapping[str, Any], batch_size: int, num_workers: int | None, device: torch.device
) -> Iterator[Seen]:
    """Every image once.

    Args:
        images: the set.
        trained: arguments of `ImageDataModule`, as a checkpoint holds them: size, crop, interpolation, normalisation.
        batch_size: images at once.
        num_workers: loader processes; None: one a core where there are many images, none for a few.
        device: where the batches are wanted.
    """
    transform = EvalTransform(decode.choose(), trained["img_size"], trained["crop_pct"], trained["interpolation"])
    normalise = BatchTransform(0, trained["mean"], trained["std"], {}, {}, seed=0)
    if num_workers is None:
        num_workers = os.cpu_count() or 1 if len(images) > _MANY * batch_size else 0
    loaded = Loaded(images, transform, seed=0, replace=False)
    for batch in DataLoader(
        loaded, batch_size, sampler=Block(len(images)), collate_fn=collate, num_workers=num_workers
    ):
        files = [images.locate(index) for index in batch.positions.tolist()]
        normalised, _ = normalise(batch._replace(images=batch.images.to(device)), False, torch.float32)
        yield Seen(files, batch.images, normalised, batch.faults)
