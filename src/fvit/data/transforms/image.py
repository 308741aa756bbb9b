"""Per-image transforms, which run in loader workers: from an encoded image to uint8 pixels of the input size."""

import math
import random
import re
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from timm.layers import to_2tuple
from torch import Tensor

from fvit.data.formats.decode import Box, Decoder
from fvit.data.seeding import global_generators
from fvit.data.transforms import rand_augment

# timm fails on some invalid policies, and ignores a part without a number or an unknown set of operations in others.
_POLICY = re.compile(
    r"rand(-(m|mmax|n)\d+|-(mstd|p)\d+(\.\d+)?|-inc[01]|-t(weights|3aw?))*"
    r"|augmix(-(m|w|d)\d+|-(mstd|a)\d+(\.\d+)?|-b[01])*"
    r"|(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?"
)


class TrainTransform:
    """Random resized crop (Szegedy et al., arXiv:1409.4842), flip, then timm's augmentations.

    Args:
        decoder, img_size: the crop is decoded and resized to a square of this side, or to this height and width.
        scale, ratio: ranges of the crop's share of the image's area, and of its width / height.
        hflip: probability of a horizontal flip.
        color_jitter, auto_augment: as in `timm.data.create_transform`, which ignores jitter with RandAugment.
        interpolation: ``nearest``, or with antialiasing ``bilinear``, ``bicubic`` or ``lanczos``.
        mean: of the channels in [0, 1], the fill colour of geometric augmentations.
    """

    def __init__(
        self,
        decoder: Decoder,
        img_size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        color_jitter: float | None = None,
        auto_augment: str | None = None,
        interpolation: str = "bicubic",
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    ) -> None:
        self.decoder, self.img_size = decoder, to_2tuple(img_size)
        self.scale, self.ratio, self.hflip = tuple(scale), tuple(ratio), hflip
        self.interpolation = interpolation
        rand_augment.install()
        if auto_augment and not _POLICY.fullmatch(auto_augment):
            raise ValueError(
                f"data.augment.transform.auto_augment={auto_augment} is not a policy of timm, such as "
                "rand-m9-mstd0.5-inc1, augmix-m5-w4-d2, original-mstd0.5, originalr, v0, v0r or 3a"
            )
        # timm's stages: crop and flip, augmentations, conversion to a tensor.
        _, augmentations, _ = create_transform(
            self.img_size,
            is_training=True,
            color_jitter=color_jitter,
            auto_augment=auto_augment,
            interpolation=interpolation,
            mean=mean,
            separate=True,
        )
        self.augmentations = augmentations if augmentations.transforms else None

    def __call__(self, data: bytes | np.ndarray, rng: random.Random) -> Tensor:
        """Map an encoded image to uint8 [H, W, 3]."""
        crop = self.decoder(data, partial(self.box, rng=rng))
        pixels = resize(crop, *self.size(*crop.shape[:2]), self.interpolation)
        if rng.random() < self.hflip:
            pixels = pixels.flip(1)
        return pixels if self.augmentations is None else self.augment(pixels, rng)

    def box(self, width: int, height: int, rng: random.Random) -> Box:
        """The crop of an image of this size."""
        return random_box(width, height, self.scale, self.ratio, rng)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which a crop of this shape is resized."""
        return self.img_size

    def augment(self, pixels: Tensor, rng: random.Random) -> Tensor:
        """Only timm's augmentations, on uint8 [H, W, 3]."""
        with global_generators(rng.getrandbits(32)):
            image = self.augmentations(Image.fromarray(pixels.numpy()))
        return torch.from_numpy(np.array(image))


class EvalTransform:
    """Resize and centre crop, for validation; the crop keeps `crop_pct` of the side that is shorter relative to it.

    `img_size` is the side of the crop, if that is a square, or its height and width. With the `crop_mode` ``squash``
    instead of ``center``, as in timm, the image does not keep its aspect ratio, and the crop keeps `crop_pct` of both
    sides.

    Raises:
        ValueError: there is no such `crop_mode`.
    """

    def __init__(
        self,
        decoder: Decoder,
        img_size: int | Sequence[int],
        crop_pct: float = 0.875,
        interpolation: str = "bicubic",
        crop_mode: str = "center",
    ) -> None:
        if crop_mode not in ("center", "squash"):
            raise ValueError(f"crop_mode={crop_mode} cannot be computed here; known: center, squash")
        self.decoder, self.img_size, self.interpolation = decoder, to_2tuple(img_size), interpolation
        self.squash = crop_mode == "squash"
        self.least = tuple(math.floor(side / crop_pct) for side in self.img_size)

    def __call__(self, data: bytes | np.ndarray, rng: random.Random | None = None) -> Tensor:
        """Map an encoded image to uint8 [H, W, 3]; `rng` is not used."""
        pixels = self.resized(data)
        rows, columns = self.img_size
        top, left = (round((side - kept) / 2) for side, kept in zip(pixels.shape[:2], self.img_size, strict=True))
        return pixels[top : top + rows, left : left + columns]

    def resized(self, data: bytes | np.ndarray) -> Tensor:
        """The whole image, uint8 [height, width, 3]."""
        pixels = self.decoder(data)  # in full: a crop decode would shift the resampling grid
        return resize(pixels, *self.size(*pixels.shape[:2]), self.interpolation)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size of an image of this shape that just covers `least`: rounded as in torchvision, or in timm."""
        if self.squash:
            return self.least
        rows, columns = self.least
        rounded = int if rows == columns else round
        if height * columns > width * rows:
            return rounded(columns * height / width), columns
        return rows, rounded(rows * width / height)


def random_box(
    width: int, height: int, scale: Sequence[float], ratio: Sequence[float], rng: random.Random, attempts: int = 10
) -> Box:
    """A crop of random area and aspect ratio; after ten that do not fit, the largest central one.

    Distributed as in torchvision's RandomResizedCrop.
    """
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(attempts):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*log_ratio))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            return rng.randint(0, width - box_width), rng.randint(0, height - box_height), box_width, box_height
    aspect = min(max(width / height, ratio[0]), ratio[1])
    box_width, box_height = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (width - box_width) // 2, (height - box_height) // 2, box_width, box_height


def resize(pixels: np.ndarray, height: int, width: int, interpolation: str) -> Tensor:
    """Map uint8 [H, W, 3] to uint8 [height, width, 3]."""
    if not pixels.flags.writeable:  # from PIL or a source of pixels; torch would warn
        pixels = pixels.copy()
    if pixels.shape[:2] == (height, width):
        return torch.from_numpy(np.ascontiguousarray(pixels))
    if interpolation not in ("bilinear", "bicubic"):  # torch's nearest differs, and it has no lanczos
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling[interpolation.upper()])
        return torch.from_numpy(np.array(image))
    # Channels last, for which torch has a fast uint8 kernel that needs four dimensions.
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    rows, columns = pixels.shape[:2]
    passes = [(height, width)]
    if rows > height and rows - height > 2 * (columns - width):
        # torch resamples columns before rows. Pillow 13 does the reverse here, which rounds differently in between.
        passes = [(height, columns), (height, width)]
    for size in passes:
        image = F.interpolate(image, size=size, mode=interpolation, antialias=True)
    return image[0].permute(1, 2, 0)
