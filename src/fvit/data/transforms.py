"""From PIL images to batches: what runs image by image in the loader, and what runs on the device, batch by batch.

Images travel as uint8; normalisation, mixup, cutmix and random erasing are done on the device, in batches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image, ImageOps
from timm.data import Mixup, create_transform
from timm.data.auto_augment import NAME_TO_OP
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import Dataset


class Transformed(Dataset):
    """A set of (PIL image, label) as (uint8 [3, H, W], label).

    Args:
        images: the set.
        img_size: side of the output in pixels.
        train: random transforms, or resize and centre crop.
        options: arguments of `timm.data.create_transform`.
    """

    def __init__(self, images: Dataset, img_size: int, train: bool, **options: Any) -> None:
        self.images = images
        self.transform = create_transform(img_size, is_training=train, normalize=False, **options)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return self.transform(_rgb(image)), label


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """Keep the highest bits of each channel; none of them leaves black."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return image if bits_to_keep >= 8 else ImageOps.posterize(image, bits_to_keep)


# timm 1.0.31 asks Pillow for 0 bits at RandAugment's largest magnitude, which Pillow 13 refuses: rand-m9-mstd0.5 would
# end within the first thousand images. Older Pillows return black.
NAME_TO_OP.update({name: _posterize for name in NAME_TO_OP if name.startswith("Posterize")})


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


class BatchTransform:
    """Normalisation and, in training, mixup, cutmix and random erasing, for one batch on its device.

    Args:
        num_classes: number of labels.
        mean, std: of the channels, for pixels in [0, 1].
        mixup: arguments of `timm.data.Mixup`.
        erasing: arguments of `timm.data.random_erasing.RandomErasing`.
    """

    def __init__(
        self,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        mixup: Mapping[str, Any],
        erasing: Mapping[str, Any],
    ) -> None:
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)
        mixes = mixup.get("mixup_alpha", 0) > 0 or mixup.get("cutmix_alpha", 0) > 0
        # Smoothing is the loss's.
        self.mixup = Mixup(**mixup, label_smoothing=0.0, num_classes=num_classes) if mixes else None
        self.erasing = erasing

    def __call__(self, images: Tensor, labels: Tensor, train: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Map uint8 [B, 3, H, W] and labels [B] to `dtype` and labels; mixed labels are probabilities [B, classes]."""
        images = images.to(torch.float32).div_(255)
        images = images.sub_(self.mean.to(images.device)).div_(self.std.to(images.device))
        if train:
            # timm mixes in place, pairing each image with its mirror in the batch; erasing comes last, as in timm.
            if self.mixup is not None:
                images, labels = self.mixup(images, labels)
            if self.erasing.get("probability", 0) > 0:
                images = RandomErasing(**self.erasing, device=images.device)(images)
        return images.to(dtype), labels
