"""NaFlex: images as sequences of patches that keep their aspect ratio, padded to one length.

Source: NaViT (Dehghani et al., arXiv:2307.06304) and SigLIP 2 (Tschannen et al., arXiv:2502.14786), as in timm's
``naflexvit_*``. An image is resized to as many patches as a square image of `img_size` has, or a few less. A sample is
uint8 [N, 3 P² + 3]: the pixels of each patch, row by row with the channels last, then its row and column in the image,
and 1; padding has zeros throughout. One tensor passes the loader like any image.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.naflex_transforms import get_image_size_for_seq, patchify_image
from timm.layers import to_2tuple
from torch import Tensor

from fvit.data.dataset import Batch
from fvit.data.formats.decode import Box, Decoder
from fvit.data.images import BadImage
from fvit.data.transforms.batch import BatchTransform
from fvit.data.transforms.image import EvalTransform, TrainTransform, random_box

_MOST = 255  # rows or columns, in a byte


class Sequences:
    """The size of resized images, and their patches.

    Args:
        img_size: the side of a square, or height and width, which has as many patches as a sequence at most.
        patch_size: the side P of a patch in pixels.

    Raises:
        ValueError: the square does not divide into patches.
    """

    def __init__(self, img_size: int | Sequence[int], patch_size: int) -> None:
        height, width = to_2tuple(img_size)
        if height % patch_size or width % patch_size:
            raise ValueError(
                f"images of {height} × {width} px do not divide into patches of data.naflex={patch_size} px"
            )
        self.patch_size, self.length = patch_size, height * width // patch_size**2

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, in whole patches, to which an image of this shape is resized."""
        _, size = get_image_size_for_seq((height, width), self.patch_size, self.length)
        if max(size) > _MOST * self.patch_size:
            raise BadImage(f"its sides of {height} and {width} px are too different for patches of equal size")
        return size

    def pack(self, pixels: Tensor) -> Tensor:
        """uint8 [H, W, 3] to uint8 [N, 3 P² + 3]."""
        patches, places, valid = patchify_image(pixels.permute(2, 0, 1).contiguous(), (self.patch_size,) * 2)
        rows = torch.cat([patches, places.to(torch.uint8), valid[:, None].to(torch.uint8)], dim=1)
        return F.pad(rows, (0, 0, 0, self.length - len(rows)))


class NaFlexTrain(TrainTransform):
    """As `TrainTransform`; `ratio` is the range of the crop's aspect ratio relative to the image's."""

    def __init__(self, decoder: Decoder, img_size: int | Sequence[int], patch_size: int, **options: Any) -> None:
        super().__init__(decoder, img_size, **options)
        self.sequences = Sequences(img_size, patch_size)

    def __call__(self, data: bytes | np.ndarray, rng: random.Random) -> Tensor:
        """Map an encoded image to uint8 [N, 3 P² + 3]."""
        return self.sequences.pack(super().__call__(data, rng))

    def box(self, width: int, height: int, rng: random.Random) -> Box:
        return random_box(width, height, self.scale, [ratio * width / height for ratio in self.ratio], rng)

    def size(self, height: int, width: int) -> tuple[int, int]:
        return self.sequences.size(height, width)


class NaFlexEval(EvalTransform):
    """The whole image: there is no crop to a square."""

    def __init__(
        self, decoder: Decoder, img_size: int | Sequence[int], patch_size: int, interpolation: str = "bicubic"
    ) -> None:
        super().__init__(decoder, img_size, 1.0, interpolation)
        self.sequences = Sequences(img_size, patch_size)

    def __call__(self, data: bytes | np.ndarray, rng: random.Random | None = None) -> Tensor:
        """Map an encoded image to uint8 [N, 3 P² + 3]; `rng` is not used."""
        return self.sequences.pack(self.resized(data))

    def size(self, height: int, width: int) -> tuple[int, int]:
        return self.sequences.size(height, width)


class NaFlexBatchTransform(BatchTransform):
    """Normalises the pixels of patches.

    Raises:
        ValueError: mixup, cutmix or erasing are asked for, which need images of one shape.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.mixup is not None or self.erasing is not None:
            raise ValueError(
                "data.naflex has no mixup, cutmix or erasing, which need images of one shape: use augment=light or set "
                "data.augment.mixup.mixup_alpha, .mixup.cutmix_alpha and .erasing.probability to 0"
            )

    def __call__(self, batch: Batch, train: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Patches [B, N, 3 P² + 3] in `dtype`, as `fvit.models.naflex.unpack` reads them, and labels [B]."""
        device = batch.images.device
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        pixels = batch.images[..., :-3].to(torch.float32).unflatten(-1, (batch.images.shape[-1] // 3 - 1, 3))
        pixels = pixels.sub_(self.mean.flatten()).div_(self.std.flatten()).flatten(-2)
        return torch.cat([pixels.to(dtype), batch.images[..., -3:].to(dtype)], dim=-1), batch.labels
