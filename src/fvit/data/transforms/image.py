"""From an encoded image to uint8 pixels of the size that a model takes: what runs image by image in the loader."""

import math
import random
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from torch import Tensor

from fvit.data.formats.decode import Box, Decoder
from fvit.data.seeding import global_generators
from fvit.data.transforms import rand_augment


class TrainTransform:
    """Random resized crop (Szegedy et al., arXiv:1409.4842), flip, then timm's augmentations.

    Args:
        decoder: decodes the crop.
        img_size: side of the output in pixels.
        scale: share of the image's area that a crop takes, least and most.
        ratio: width to height of a crop, least and most.
        hflip: probability of a mirror image.
        color_jitter, auto_augment: as in `timm.data.create_transform`; timm leaves jitter out beside RandAugment.
        interpolation: ``nearest``, ``bilinear``, ``bicubic``, ``lanczos``; but for nearest antialiased, as PIL's are.
        mean: of the channels in [0, 1], the colour that geometric augmentations fill with.
    """

    def __init__(
        self,
        decoder: Decoder,
        img_size: int,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        color_jitter: float | None = None,
        auto_augment: str | None = None,
        interpolation: str = "bicubic",
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    ) -> None:
        self.decoder, self.img_size = decoder, img_size
        self.scale, self.ratio, self.hflip = tuple(scale), tuple(ratio), hflip
        self.interpolation = interpolation
        rand_augment.install()
        # timm's three stages: crop and flip, augmentations, conversion to a tensor.
        _, augmentations, _ = create_transform(
            img_size,
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
        crop = self.decoder(data, partial(random_box, scale=self.scale, ratio=self.ratio, rng=rng))
        pixels = resize(crop, self.img_size, self.img_size, self.interpolation)
        if rng.random() < self.hflip:
            pixels = pixels.flip(1)
        return pixels if self.augmentations is None else self.augment(pixels, rng)

    def augment(self, pixels: Tensor, rng: random.Random) -> Tensor:
        """timm's augmentations alone: uint8 [H, W, 3] to the same."""
        with global_generators(rng.getrandbits(32)):
            image = self.augmentations(Image.fromarray(pixels.numpy()))
        return torch.from_numpy(np.array(image))


class EvalTransform:
    """Resize the shorter side, keep the centre: what models are measured on.

    Args:
        decoder: decodes all of the image: a crop decode would shift the resampling grid.
        img_size: side of the output in pixels.
        crop_pct: share of the shorter side that the crop keeps.
        interpolation: as in `TrainTransform`.
    """

    def __init__(
        self, decoder: Decoder, img_size: int, crop_pct: float = 0.875, interpolation: str = "bicubic"
    ) -> None:
        self.decoder, self.img_size, self.interpolation = decoder, img_size, interpolation
        self.short_side = math.floor(img_size / crop_pct)

    def __call__(self, data: bytes | np.ndarray, rng: random.Random | None = None) -> Tensor:
        """Map an encoded image to uint8 [H, W, 3]; `rng` is not drawn from."""
        pixels = self.decoder(data)
        height, width = pixels.shape[:2]
        # As torchvision computes it: the longer side is cut to an integer, the crop's corner rounded.
        long_side = int(self.short_side * max(height, width) / min(height, width))
        size = (long_side, self.short_side) if height > width else (self.short_side, long_side)
        pixels = resize(pixels, *size, self.interpolation)
        top, left = (round((side - self.img_size) / 2) for side in size)
        return pixels[top : top + self.img_size, left : left + self.img_size]


def random_box(
    width: int, height: int, scale: Sequence[float], ratio: Sequence[float], rng: random.Random, attempts: int = 10
) -> Box:
    """A box of random area and aspect ratio within an image; after ten that do not fit, the largest central one.

    The distribution of torchvision's RandomResizedCrop.
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
    if not pixels.flags.writeable:  # of a source that holds pixels, or of PIL: torch would warn
        pixels = pixels.copy()
    if pixels.shape[:2] == (height, width):
        return torch.from_numpy(np.ascontiguousarray(pixels))
    if interpolation not in ("bilinear", "bicubic"):  # torch's nearest takes other pixels; only new ones know lanczos
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling[interpolation.upper()])
        return torch.from_numpy(np.array(image))
    # Channels last, for which torch has a fast kernel on uint8; made four-dimensional first, or torch does not see it.
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    rows, columns = pixels.shape[:2]
    passes = [(height, width)]
    if rows > height and rows - height > 2 * (columns - width):
        # torch resamples columns before rows. Pillow (13) turns that round here, and the rounding between them shows.
        passes = [(height, columns), (height, width)]
    for size in passes:
        image = F.interpolate(image, size=size, mode=interpolation, antialias=True)
    return image[0].permute(1, 2, 0)
