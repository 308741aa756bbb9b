"""What mixup, cutmix and random erasing draw for a batch, in the loader, before its images are on the device.

timm's Mixup and RandomErasing draw from the global generators. Here, each draw is a function of the seed and of an
image's position in the epoch, so a resumed run sees the same pixels, even on another number of ranks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from fvit.data.seeding import generator

Key = tuple[int, int]
"""Epoch, and position in it."""
Box = tuple[int, int, int, int]
"""Top, left, bottom and right, in pixels."""
EMPTY: Box = (0, 0, 0, 0)


class Draws(NamedTuple):
    """The draws for a batch; an augmentation that is off has None.

    Their float32 numbers are stored as the int32 of the same bits: Lightning casts what is floating in a batch to the
    precision of the model, and weights in bfloat16 would not be those that were drawn.
    """

    mix: "MixDraws | None" = None
    erase: "EraseDraws | None" = None


Draw = Callable[[Sequence[Key], int, int], Draws]
"""Maps the keys of images, their height and their width to draws."""


class MixDraws(NamedTuple):
    """The weights of images against their partners, and what of the partners is pasted."""

    label_weights: Tensor  # bits of float32 [B]
    pixel_weights: Tensor  # bits of float32 [B], outside the boxes
    boxes: Tensor  # int64 [B, 4]; inside them all is the partner's


class EraseDraws(NamedTuple):
    """The rectangles that are erased, and what fills them."""

    boxes: Tensor  # int64 [B, 4], empty where nothing is erased
    fills: Tensor  # colours, bits of float32 [B, 3], or places in the table of noise, int64 [B, 2]


class Blend(NamedTuple):
    """The weight of an image against its partner, and for cutmix the partner's box."""

    weight: float
    box: Box | None = None


def make_draws(mixup: "Mixup | None", erasing: "RandomErasing | None", keys: Sequence[Key], *size: int) -> Draws:
    """The draws for images of `size`, height and width, with these keys."""
    return Draws(*(kind and kind(keys, *size) for kind in (mixup, erasing)))


@dataclass
class Mixup:
    """Mixup (Zhang et al., arXiv:1710.09412) and CutMix (Yun et al., arXiv:1905.04899), distributed as in timm.

    An image's partner is half an optimizer step away, which is half a micro batch away on any number of ranks.
    """

    mixup_alpha: float  # of the Beta distributions; 0 disables mixup or cutmix
    cutmix_alpha: float
    prob: float  # of mixing
    switch_prob: float  # of cutmix if both are enabled
    mode: str  # what shares a draw: a "batch" of about per_draw images, a "pair", or nothing ("elem")
    seed: int
    per_draw: int = 64  # as many images as DeiT's devices process at a time; must not depend on ours
    global_batch: int = 2  # images per optimizer step
    off_epochs: int = 0  # the last so many of the run's epochs, in which nothing is mixed
    epochs: int | None = None  # of the run

    def __call__(self, keys: Sequence[Key], height: int, width: int) -> MixDraws:
        """The draws for images of this size."""
        groups = [self._group(*key) for key in keys]
        drawn = {group: self._draw(group, height, width) for group in set(groups)}
        blends = [drawn[group] for group in groups]
        return MixDraws(
            torch.tensor([blend.weight for blend in blends]).view(torch.int32),
            torch.tensor([1.0 if blend.box else blend.weight for blend in blends]).view(torch.int32),
            torch.tensor([blend.box or EMPTY for blend in blends]).view(-1, 4),
        )

    def _group(self, epoch: int, position: int) -> Key:
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

    def _draw(self, group: Key, height: int, width: int) -> Blend:
        rng = generator(self.seed, "mix", *group)
        is_off = self.epochs is not None and group[0] >= self.epochs - self.off_epochs
        if rng.random() >= self.prob or is_off:
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

    def __call__(self, keys: Sequence[Key], height: int, width: int) -> EraseDraws:
        """The draws for images of this size."""
        boxes, fills = [], []
        for key in keys:
            rng = generator(self.seed, "erase", *key)
            boxes.append(self._box(rng, height, width) if rng.random() < self.probability else EMPTY)
            fills.append(self._fill(rng, height, width))
        filled = torch.tensor(fills)
        return EraseDraws(
            torch.tensor(boxes).view(-1, 4), filled.view(torch.int32) if filled.is_floating_point() else filled
        )

    def noise(self, height: int, width: int) -> Tensor:
        """Normal noise [3, 2 height, 2 width], from which images of height × width take windows.

        Windows of one table cost a single operator for a batch, and give the same pixels on any device. Noise of its
        own for each image would need a generator, and a kernel, for each.
        """
        noise = torch.Generator().manual_seed(generator(self.seed, "noise", 0, 0).getrandbits(63))
        return torch.randn(3, 2 * height, 2 * width, generator=noise)

    def _box(self, rng: Random, height: int, width: int) -> Box:
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            aspect = math.exp(rng.uniform(math.log(self.aspect), -math.log(self.aspect)))
            box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if box_height < height and box_width < width:
                top, left = rng.randint(0, height - box_height), rng.randint(0, width - box_width)
                return top, left, top + box_height, left + box_width
        return EMPTY

    def _fill(self, rng: Random, height: int, width: int) -> tuple[float, ...]:
        if self.mode == "pixel":
            return rng.randint(0, height), rng.randint(0, width)
        return tuple(rng.gauss(0.0, 1.0) if self.mode == "rand" else 0.0 for _ in range(3))
