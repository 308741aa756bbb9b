"""The interface of a set of encoded, labelled images."""

from abc import ABC, abstractmethod

import numpy as np


class DataError(ValueError):
    """Data that a run cannot continue with; the text names the file, the problem and the remedy."""


class BadImage(DataError):  # noqa: N818 (the image is at fault)
    """One damaged image, while others around it may be fine."""


class Images(ABC):
    """Encoded images, read by index in any order and from any process.

    Loader workers are forked. So per-image data must be in arrays, because the reference counts of millions of Python
    objects would copy them into every worker; and files must be read by position, because forks share a file's offset.
    """

    labels: np.ndarray  # int32 [N]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> bytes | np.ndarray:
        """One image: encoded, or as pixels uint8 [H, W] or [H, W, 3] if the source stores pixels.

        Raises:
            OSError: a retry may help.
            BadImage: it is empty, truncated, or its checksum is wrong.
            DataError: the file that contains it and others is missing or has changed.
        """

    def locate(self, index: int) -> str:
        """Where the image is stored, for messages: its path, or a shard and the member in it."""
        return f"image {index}"

    @property
    def shard_sizes(self) -> np.ndarray | None:
        """Number of images in each shard, if the images are stored in shards, which are fetched as a whole."""
        return None

    @property
    def window(self) -> int | None:
        """How many shards may be mixed at a time if they do not all fit on this machine; None if they do."""
        return None

    def prefetch(self, shards: np.ndarray) -> None:  # noqa: B027 (most sets have nothing to fetch)
        """Start fetching these shards in the background, in this order."""


class Pixels(Images):
    """Decoded images in memory: uint8 [N, H, W] or [N, H, W, 3], and labels [N]."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.pixels = pixels
        self.labels = np.asarray(labels, dtype=np.int32)

    def read(self, index: int) -> np.ndarray:
        return self.pixels[index]


class Subset(Images):
    """Some of the images of a set that is not stored in shards, in the order of `indices`."""

    def __init__(self, images: Images, indices: np.ndarray) -> None:
        self.images, self.indices = images, indices
        self.labels = images.labels[indices]

    def read(self, index: int) -> bytes | np.ndarray:
        return self.images.read(self.indices[index])

    def locate(self, index: int) -> str:
        return self.images.locate(self.indices[index])
