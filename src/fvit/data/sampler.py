"""The order of training images, a function of (seed, epoch) alone."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class ShuffledShare(Sampler[int]):
    """One rank's share of a shuffle.

    All ranks draw the same order and take every `world_size`-th place of it, so that the images of an optimizer step
    are the same on any number of ranks. With `num_repeats` each image drawn fills as many consecutive places, which
    lie on different ranks (repeated augmentation, Hoffer et al., arXiv:1901.09335; as in DeiT, an epoch keeps its
    length and sees fewer images). What does not divide by `world_size` is left out of the epoch.

    Args:
        num_images: size of the training set.
        world_size, rank: how many share the images, and which one this is.
        seed: of the run.
        num_repeats: places an image fills.
    """

    def __init__(
        self, num_images: int, world_size: int = 1, rank: int = 0, seed: int = 0, num_repeats: int = 1
    ) -> None:
        self.num_images = num_images
        self.world_size = world_size
        self.rank = rank
        self.seed = seed
        self.num_repeats = num_repeats
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_images // self.world_size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_images)
        places = np.repeat(order[: -(-self.num_images // self.num_repeats)], self.num_repeats)
        share = places[self.rank : len(self) * self.world_size : self.world_size]
        return iter(share.tolist())
