"""What runs on the device, batch by batch: normalisation and, in training, mixup, cutmix and random erasing.

timm's Mixup and RandomErasing draw from the global generators. Here, each draw is a function of the seed and of an
image's position in the epoch, so a resumed run sees the same pixels, even on another number of ranks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fvit.data.dataset import Batch
from fvit.data.seeding import generator


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
        # For pixels in [0, 255].
        self.mean = 255 * torch.tensor(mean).view(-1, 1, 1)
        self.std = 255 * torch.tensor(std).view(-1, 1, 1)
        mixes = mixup.get("mixup_alpha", 0) > 0 or mixup.get("cutmix_alpha", 0) > 0
        self.mixup = Mixup(num_classes, **mixup, seed=seed) if mixes else None
        self.erasing = RandomErasing(**erasing, seed=seed) if erasing.get("probability", 0) > 0 else None

    def __call__(self, batch: Batch, train: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] in `dtype`, and labels [B] or, if mixed, probabilities [B, classes]."""
        device = batch.images.device
        images, labels = batch.images.permute(0, 3, 1, 2).to(torch.float32), batch.labels
        images = images.sub_(self.mean.to(device)).div_(self.std.to(device))
        if train:
            keys = list(zip(batch.epochs.tolist(), batch.positions.tolist(), strict=True))
            if self.mixup is not None:
                images, labels = self.mixup(images, labels, keys)
            if self.erasing is not None:  # last, as in timm
                images = self.erasing(images, keys)
        return images.to(dtype, memory_format=self.memory_format), labels


class Blend(NamedTuple):
    """The weight of an image against its partner, and for cutmix the partner's box: top, left, bottom, right."""

    weight: float
    box: tuple[int, int, int, int] | None = None


@dataclass
class Mixup:
    """Mixup (Zhang et al., arXiv:1710.09412) and CutMix (Yun et al., arXiv:1905.04899), distributed as in timm.

    An image's partner is half an optimizer step away, which is half a micro batch away on any number of ranks.
    """

    num_classes: int
    mixup_alpha: float  # of the Beta distributions; 0 disables mixup or cutmix
    cutmix_alpha: float
    prob: float  # of mixing
    switch_prob: float  # of cutmix if both are enabled
    mode: str  # what shares a draw: a "batch" of about per_draw images, a "pair", or nothing ("elem")
    seed: int
    per_draw: int = 64  # as many images as DeiT's devices process at a time; must not depend on ours
    global_batch: int = 2  # images per optimizer step

    def __call__(self, images: Tensor, labels: Tensor, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Mix images [B, 3, H, W] and labels [B], with (epoch, position) of each, into images and probabilities."""
        height, width = images.shape[-2:]
        groups = [self._group(*key) for key in keys]
        drawn = {group: self._draw(group, height, width) for group in set(groups)}
        blends = [drawn[group] for group in groups]
        weights = torch.tensor([blend.weight for blend in blends], device=images.device)
        # The weight of each pixel: constant in an image for mixup, 0 or 1 for cutmix.
        pixel_weights = weights.view(-1, 1, 1, 1).expand(-1, 1, height, width).clone()
        for mask, blend in zip(pixel_weights, blends, strict=True):
            if blend.box is not None:
                top, left, bottom, right = blend.box
                mask.fill_(1.0)
                mask[:, top:bottom, left:right] = 0.0
        half = len(images) // 2
        images = images * pixel_weights + images.roll(half, dims=0) * (1 - pixel_weights)
        targets = F.one_hot(labels, self.num_classes).to(images.dtype)
        weights = weights.unsqueeze(1)
        return images, targets * weights + targets.roll(half, dims=0) * (1 - weights)

    def _group(self, epoch: int, position: int) -> tuple[int, int]:
        """Key of the images that share a draw with this one."""
        offset = position % self.global_batch
        start = position - offset
        if self.mode == "batch":
            return epoch, start + offset % self._draws_per_step()
        if self.mode == "pair":
            return epoch, start + offset % (self.global_batch // 2)
        return epoch, position

    def _draws_per_step(self) -> int:
        # It divides half a step, so that partners share their draw.
        most = max(1, self.global_batch // self.per_draw)
        return next(count for count in range(most, 0, -1) if self.global_batch // 2 % count == 0)

    def _draw(self, group: tuple[int, int], height: int, width: int) -> Blend:
        rng = generator(self.seed, "mix", *group)
        if rng.random() >= self.prob:
            return Blend(1.0)
        if not self.mixup_alpha or (self.cutmix_alpha and rng.random() < self.switch_prob):
            weight = rng.betavariate(self.cutmix_alpha, self.cutmix_alpha)
            box_height, box_width = (int(side * math.sqrt(1 - weight)) for side in (height, width))
            y, x = rng.randrange(height), rng.randrange(width)
            top, bottom = (min(max(edge, 0), height) for edge in (y - box_height // 2, y + box_height // 2))
            left, right = (min(max(edge, 0), width) for edge in (x - box_width // 2, x + box_width // 2))
            # Corrected for the part of the box outside the image.
            return Blend(1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right))
        return Blend(rng.betavariate(self.mixup_alpha, self.mixup_alpha))


@dataclass
class RandomErasing:
    """Random erasing (Zhong et al., arXiv:1708.04896), distributed as in timm."""

    probability: float  # of erasing a rectangle
    mode: str  # fill it with zeros ("const"), one normal colour ("rand") or normal noise ("pixel")
    seed: int
    area: tuple[float, float] = (0.02, 1 / 3)  # range of the rectangle's share of the image
    aspect: float = 0.3  # minimum of its height / width; the maximum is the inverse

    def __call__(self, images: Tensor, keys: Sequence[tuple[int, int]]) -> Tensor:
        """Erase in place in images [B, 3, H, W], each with its (epoch, position)."""
        height, width = images.shape[-2:]
        noise = torch.Generator(images.device)
        for image, key in zip(images, keys, strict=True):
            rng = generator(self.seed, "erase", *key)
            if rng.random() >= self.probability:
                continue
            for _ in range(10):
                area = rng.uniform(*self.area) * height * width
                aspect = math.exp(rng.uniform(math.log(self.aspect), -math.log(self.aspect)))
                box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if box_height < height and box_width < width:
                    top, left = rng.randint(0, height - box_height), rng.randint(0, width - box_width)
                    box = image[:, top : top + box_height, left : left + box_width]
                    noise.manual_seed(rng.getrandbits(63))
                    shape = box.shape if self.mode == "pixel" else (len(box), 1, 1)
                    fill = torch.randn(shape, generator=noise, device=box.device, dtype=box.dtype)
                    box.copy_(fill if self.mode != "const" else torch.zeros_like(fill))
                    break
        return images
