"""The contract of what a source gives: a map-style set of encoded images with labels."""

from abc import ABC, abstractmethod

import numpy as np


class DataError(ValueError):
    """Data that a run cannot go on with; the text names the file, what is wrong with it and what to do."""


class BadImage(DataError):  # noqa: N818 (what is raised is the image's fault)
    """One image that cannot be used, while those around it can."""


class Images(ABC):
    """Encoded images, read by index, in any order and from any process.

    Loader workers are forked from the process that built the set, millions of images long. So what it holds an image
    lies in arrays and never in Python objects, whose reference counts would copy it into each worker; and files are
    read by position, because a forked file shares its position with its parent.

    Attributes:
        labels: int32 [N].
    """

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> bytes | np.ndarray:
        """One image: encoded, or as pixels uint8 [H, W] or [H, W, 3] where that is how the source holds it.

        Raises:
            OSError: it could not be read, now; it may help to try again.
            BadImage: it is damaged: empty, truncated, another checksum.
            DataError: the file that holds it is missing or has changed, and others with it.
        """

    @abstractmethod
    def locate(self, index: int) -> str:
        """Where the image lies, for people: a file, or a shard and the member in it."""

    @property
    def shard_sizes(self) -> np.ndarray | None:
        """Images a shard, where consecutive images share a file that is fetched as a whole; None if none does."""
        return None

    @property
    def window(self) -> int | None:
        """Shards that may be mixed at a time, where the machine cannot hold all of them; None for all."""
        return None

    def prefetch(self, shards: np.ndarray) -> None:  # noqa: B027 (most sets have nothing to fetch)
        """Begin to fetch these shards, in this order, in the background."""


class Pixels(Images):
    """Images held in memory as pixels.

    Args:
        pixels: uint8 [N, H, W] or [N, H, W, 3].
        labels: [N].
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.pixels = pixels
        self.labels = np.asarray(labels, dtype=np.int32)

    def read(self, index: int) -> np.ndarray:
        """Pixels uint8 [H, W] or [H, W, 3]."""
        return self.pixels[index]

    def locate(self, index: int) -> str:
        """Its number."""
        return f"image {index}"
