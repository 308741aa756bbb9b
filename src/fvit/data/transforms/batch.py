"""What runs on the device, batch by batch: normalisation and, in training, mixup, cutmix and random erasing.

Nothing here makes the host wait for the device, and the number of operators does not depend on the batch size: what is
random has been drawn in the loader.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fvit.data.dataset import Batch
from fvit.data.transforms.draws import Draw, EraseDraws, MixDraws, Mixup, RandomErasing, make_draws


class BatchTransform:
    """Turns a batch of uint8 images into the model's input, given arguments of `Mixup` and `RandomErasing`."""

    def __init__(
        self,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        mixup: Mapping[str, Any],
        erasing: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.memory_format = torch.contiguous_format  # set to channels_last for models that prefer it
        self.num_classes = num_classes
        # For pixels in [0, 255]; on the CPU, like the noise, until the first batch comes.
        self.mean = 255 * torch.tensor(mean).view(-1, 1, 1)
        self.std = 255 * torch.tensor(std).view(-1, 1, 1)
        self.noise = torch.empty(3, 0, 0)
        mixes = mixup.get("mixup_alpha", 0) > 0 or mixup.get("cutmix_alpha", 0) > 0
        self.mixup = Mixup(**mixup, seed=seed) if mixes else None
        self.erasing = RandomErasing(**erasing, seed=seed) if erasing.get("probability", 0) > 0 else None

    @property
    def draw(self) -> Draw:
        """What the loader of training images calls for each batch."""
        return partial(make_draws, self.mixup, self.erasing)

    def __call__(self, batch: Batch, train: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] in `dtype`, and labels [B] or, if mixed, probabilities [B, classes]."""
        device, (height, width) = batch.images.device, batch.images.shape[1:3]
        # Copied once: later calls find them on the device.
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        images, labels = batch.images.permute(0, 3, 1, 2).to(torch.float32), batch.labels
        images = images.sub_(self.mean).div_(self.std)
        if train and self.mixup is not None:
            images, labels = mix(images, labels, self.num_classes, batch.draws.mix)
        if train and self.erasing is not None:  # last, as in timm
            if self.noise.shape[1:] != (2 * height, 2 * width):
                self.noise = self.erasing.noise(height, width)
            self.noise = self.noise.to(device)
            images = erase(images, self.noise, batch.draws.erase)
        return images.to(dtype, memory_format=self.memory_format), labels


def mix(images: Tensor, labels: Tensor, num_classes: int, draws: MixDraws) -> tuple[Tensor, Tensor]:
    """Mix images [B, 3, H, W] and labels [B] with those half a batch away, into images and probabilities [B, classes].

    A pixel's weight is constant in an image for mixup, 0 or 1 for cutmix.
    """
    half = len(images) // 2
    weights = draws.pixel_weights.view(torch.float32).view(-1, 1, 1, 1)
    weights = weights.where(~inside(draws.boxes, *images.shape[-2:]), 0.0)
    # Not F.one_hot, which looks at the labels on the host.
    targets = (labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)).to(images.dtype)
    of_labels = draws.label_weights.view(torch.float32).unsqueeze(1)
    return (
        torch.lerp(images.roll(half, dims=0), images, weights),
        targets * of_labels + targets.roll(half, dims=0) * (1 - of_labels),
    )


def erase(images: Tensor, noise: Tensor, draws: EraseDraws) -> Tensor:
    """Fill the boxes in images [B, 3, H, W], with colours or with windows of `noise` [3, 2H, 2W]."""
    height, width = images.shape[-2:]
    if draws.fills.shape[1] == 2:
        # A view of all windows, [H + 1, W + 1, 3, H, W].
        windows = noise.unfold(1, height, 1).unfold(2, width, 1).permute(1, 2, 0, 3, 4)
        fills = windows[draws.fills[:, 0], draws.fills[:, 1]]
    else:
        fills = draws.fills.view(torch.float32).view(-1, 3, 1, 1)
    return torch.where(inside(draws.boxes, height, width), fills, images)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which pixels are inside boxes [B, 4] of top, left, bottom and right: bool [B, 1, height, width]."""
    top, left, bottom, right = boxes.unsqueeze(2).unbind(1)
    rows, columns = (torch.arange(side, device=boxes.device) for side in (height, width))
    rows, columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
