"""Images that need no files: handwritten digits, and noise."""

import numpy as np
from pydantic import PositiveInt

from fvit.data.images import Images, Pixels
from fvit.data.sources.base import Source


def digits() -> Source:
    """The 1,797 handwritten digits of 8×8 pixels in scikit-learn (UCI Optdigits), split 80:20 and stratified."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)  # grey levels are from 0 to 16
    splits = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    train, val = (Pixels(images[split], labels[split]) for split in splits)
    return Source(train, val, classes=[str(digit) for digit in range(10)])


def fake(num_images: PositiveInt = 256, num_classes: PositiveInt = 10, image_size: PositiveInt = 64) -> Source:
    """Noise of `image_size` pixels as a function of the index, with a quarter as many images for validation."""
    train = _Noise(0, num_images, num_classes, image_size)
    val = _Noise(1, max(1, num_images // 4), num_classes, image_size)
    return Source(train, val, classes=[str(label) for label in range(num_classes)])


class _Noise(Images):
    def __init__(self, split: int, num_images: int, num_classes: int, size: int) -> None:
        self.split, self.size = split, size
        self.labels = np.random.default_rng(split).integers(num_classes, size=num_images, dtype=np.int32)

    def read(self, index: int) -> np.ndarray:
        noise = np.random.default_rng((self.split, index))
        return noise.integers(256, size=(self.size, self.size, 3), dtype=np.uint8)
