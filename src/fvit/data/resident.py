"""Small sets of images that stay on the device: the loader draws crops and flips, and the device applies them.

A loader that decodes, crops and resizes each image takes longer than a small model's step. Here it hands out numbers;
order, draws and resume are those of the loader path, and pixels differ from its by at most one of 255 levels, because
torch's resampling of uint8 has 16-bit weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fvit.data.dataset import Sample, Transform
from fvit.data.formats.decode import Decoder
from fvit.data.images import DataError, Images
from fvit.data.seeding import SampleKey, generator
from fvit.data.transforms.image import TrainTransform, random_box


@dataclass(eq=False)
class ResidentDataset(Dataset):
    """Indexed by `SampleKey`; in place of pixels a sample has int64 [6]: index, left, top, width, height, flip.

    Args:
        images: all images of one size, read at once.
        decoder: what decodes them.
        transform: crop and flip at random (a `TrainTransform`), or a transform that draws nothing, which is applied
            once to each image.

    Attributes:
        pixels: uint8 [N, H, W, 3].

    Raises:
        DataError: an image cannot be read, or its size differs from that of the first one.
        ValueError: the transform augments in ways that only the loader can.
    """

    images: Images
    decoder: Decoder
    transform: Transform
    seed: int

    def __post_init__(self) -> None:
        self.crops = isinstance(self.transform, TrainTransform)
        if self.crops and self.transform.augmentations is not None:
            raise ValueError(
                "data.resident=true crops and flips on the device, and has no color_jitter or auto_augment; use "
                "augment=light or none, or data.resident=false"
            )
        if self.crops and self.transform.interpolation not in _KERNELS:
            raise ValueError(
                f"data.interpolation={self.transform.interpolation} cannot be used with data.resident=true; use "
                f"{' or '.join(_KERNELS)}"
            )
        one = (lambda data: torch.from_numpy(np.array(self.decoder(data)))) if self.crops else self.transform
        first = self._read(0, one)
        self.pixels = torch.empty(len(self.images), *first.shape, dtype=torch.uint8)
        for index in range(len(self.images)):
            self.pixels[index] = self._read(index, one, first.shape)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> Sample:
        height, width = self.pixels.shape[1:3]
        left, top, flip = 0, 0, False
        if self.crops:
            rng = generator(self.seed, "image", key.epoch, key.position)
            left, top, width, height = random_box(width, height, self.transform.scale, self.transform.ratio, rng)
            flip = rng.random() < self.transform.hflip
        crop = torch.tensor([key.index, left, top, width, height, flip])
        return Sample(crop, int(self.images.labels[key.index]), key)

    def take(self, crops: Tensor, size: tuple[int, int]) -> Tensor:
        """The pixels of crops [B, 6], uint8 [B, H, W, 3], on the device of `crops`.

        `size` is height and width of the result; without random crops it is that of the transform.
        """
        if self.pixels.device != crops.device:
            self.pixels = self.pixels.to(crops.device)  # once
        images = self.pixels[crops[:, 0]]
        if not self.crops:
            return images
        return crop_and_resize(images, crops[:, 1:], *size, self.transform.interpolation)

    def _read(self, index: int, one: Transform, shape: torch.Size | None = None) -> Tensor:
        try:
            pixels = one(self.images.read(index))
        except (DataError, OSError) as error:
            raise DataError(
                f"{self.images.locate(index)}: {error}. data.resident=true reads all images before training: remove "
                "this one, or use data.resident=false"
            ) from error
        if shape is not None and pixels.shape != shape:
            raise DataError(
                f"{self.images.locate(index)} has {pixels.shape[1]}×{pixels.shape[0]} px and the first image "
                f"{shape[1]}×{shape[0]}; data.resident=true needs images of one size: use data.resident=false"
            )
        return pixels


def crop_and_resize(images: Tensor, crops: Tensor, rows: int, columns: int, interpolation: str) -> Tensor:
    """Resize a crop of each image, with antialiasing, as `fvit.data.transforms.image.resize` does.

    Args:
        images: uint8 [B, H, W, 3].
        crops: [B, 5]: left, top, width, height, and whether to flip.
        rows, columns: size of the result.
        interpolation: ``bilinear`` or ``bicubic``.

    Returns:
        uint8 [B, rows, columns, 3].
    """
    left, top, width, height, flip = crops.unbind(1)
    along_x = _resampling(left, width, images.shape[2], columns, interpolation)
    along_x = torch.where(flip.view(-1, 1, 1) > 0, along_x.flip(1), along_x)
    along_y = _resampling(top, height, images.shape[1], rows, interpolation)
    images = images.to(torch.float32)
    narrow = _to_levels(torch.einsum("bxw,bhwc->bhxc", along_x, images))
    found = _to_levels(torch.einsum("byh,bhxc->byxc", along_y, narrow))
    if images.shape[1] > rows:  # as in `resize`
        short = _to_levels(torch.einsum("byh,bhwc->bywc", along_y, images))
        other = _to_levels(torch.einsum("bxw,bywc->byxc", along_x, short))
        rows_first = (height > rows) & (height - rows > 2 * (width - columns))
        found = torch.where(rows_first.view(-1, 1, 1, 1), other, found)
    return found.to(torch.uint8)


def _to_levels(x: Tensor) -> Tensor:
    return torch.floor(x + 0.5).clamp(0, 255)


def _resampling(start: Tensor, length: Tensor, side: int, size: int, interpolation: str) -> Tensor:
    """The weights [B, size, side] by which an axis's pixels start … start + length are averaged to `size` ones."""
    support, kernel = _KERNELS[interpolation]
    scale = length.view(-1, 1, 1) / size
    stretch = scale.clamp(min=1)
    centre = (torch.arange(size, device=start.device).view(1, -1, 1) + 0.5) * scale
    position = torch.arange(side, device=start.device) - start.view(-1, 1, 1)
    first, end = (torch.floor(centre + sign * support * stretch + 0.5) for sign in (-1, 1))
    used = (position >= first.clamp(min=0)) & (position < torch.minimum(end, length.view(-1, 1, 1)))
    weights = kernel((position - centre + 0.5) / stretch).where(used, 0.0)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    # As torch's kernel for uint8, which has weights of 16 bits.
    unit = 2 ** ((32767.5 / weights.amax(dim=(1, 2), keepdim=True)).log2().ceil() - 1)
    return torch.sign(weights) * torch.floor(weights.abs() * unit + 0.5) / unit


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _bicubic(x: Tensor) -> Tensor:
    """Keys's kernel with a = -1/2, as in Pillow and torch's antialiased resampling."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return near.where(x < 1, far.where(x < 2, 0.0))


_KERNELS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "bilinear": (1.0, _bilinear),
    "bicubic": (2.0, _bicubic),
}
