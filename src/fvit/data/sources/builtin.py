"""Handwritten digits that need no download."""

import numpy as np

from fvit.data.images import Pixels
from fvit.data.sources.base import Source


def digits() -> Source:
    """The 1,797 handwritten digits of 8×8 pixels that ship with scikit-learn (UCI Optdigits), split 80:20 by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    # Grey levels run from 0 to 16.
    images = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    train, val = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    return Source(
        train=Pixels(images[train], labels[train]),
        val=Pixels(images[val], labels[val]),
        classes=[str(digit) for digit in range(10)],
    )
