"""Noise in the place of images."""

import numpy as np

from fvit.data.images import Images
from fvit.data.sources.base import Source


def fake(num_images: int = 256, num_classes: int = 10, image_size: int = 64) -> Source:
    """Noise that is a function of its index: for tests and for profiling.

    Args:
        num_images: images in train; val has a quarter of them, at least one.
        num_classes: labels are drawn from these.
        image_size: side of the images in pixels, before transforms.
    """
    return Source(
        train=_Noise(0, num_images, num_classes, image_size),
        val=_Noise(1, max(1, num_images // 4), num_classes, image_size),
        classes=[str(label) for label in range(num_classes)],
    )


class _Noise(Images):
    """Noise drawn when it is read, from a generator seeded by the split and the index."""

    def __init__(self, split: int, num_images: int, num_classes: int, size: int) -> None:
        self.split, self.size = split, size
        self.labels = np.random.default_rng(split).integers(num_classes, size=num_images, dtype=np.int32)

    def read(self, index: int) -> np.ndarray:
        """Pixels uint8 [size, size, 3]."""
        noise = np.random.default_rng((self.split, index))
        return noise.integers(256, size=(self.size, self.size, 3), dtype=np.uint8)

    def locate(self, index: int) -> str:
        """Its number."""
        return f"noise {index}"
