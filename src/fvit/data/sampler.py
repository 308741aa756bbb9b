"""The order of an epoch as a function of (seed, epoch) alone, and its division among ranks and micro batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import SequentialSampler

from fvit.data.seeding import SampleKey


@dataclass(frozen=True)
class ShardWindows:
    """Restricts a shuffle to a few shards at a time, for machines that cannot hold all of them."""

    shard_sizes: np.ndarray  # images in each shard, in the order of their indices
    shards: int  # that are mixed at a time
    nodes: int = 1  # among which the shards are divided; position p of the order is for node p % nodes


@dataclass(frozen=True)
class Shuffle:
    """The order of a training set in each epoch.

    With `num_repeats`, an image takes that many consecutive positions, on different ranks or in different micro batches
    (repeated augmentation, Hoffer et al., arXiv:1901.09335). As in DeiT, the epoch keeps its length.
    """

    num_images: int
    seed: int = 0
    num_repeats: int = 1
    windows: ShardWindows | None = None

    @property
    def length(self) -> int:
        """Positions per epoch."""
        return self.num_images - self.num_images % (self.windows.nodes if self.windows else 1)

    def __call__(self, epoch: int) -> np.ndarray:
        """Image indices [length]."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(self.num_images) if self.windows is None else self._windowed(self.windows, rng)
        distinct = -(-len(order) // self.num_repeats)
        return np.repeat(order[:distinct], self.num_repeats)[: len(order)]

    def _windowed(self, windows: ShardWindows, rng: np.random.Generator) -> np.ndarray:
        sizes = windows.shard_sizes
        ends = np.cumsum(sizes)
        shards = rng.permutation(len(sizes))
        images = np.concatenate([np.arange(ends[shard] - sizes[shard], ends[shard]) for shard in shards])
        by_node = images[: self.length].reshape(windows.nodes, -1)
        window = max(1, round(windows.shards * float(np.mean(sizes))))
        for part in by_node:
            for start in range(0, len(part), window):
                rng.shuffle(part[start : start + window])
        return by_node.T.ravel()


@dataclass(frozen=True)
class BatchLayout:
    """How the images of an optimizer step are divided among ranks and micro batches.

    The positions of a step are dealt to the first micro batch of each rank in turn, then to the second ones, and so on.
    So a step contains the same images on any number of ranks, and two images that are half a step apart, which mixup
    combines, are always in the same micro batch.
    """

    batch_size: int  # per micro batch
    accumulate: int = 1  # micro batches per step and rank
    world_size: int = 1

    @property
    def global_batch(self) -> int:
        """Images per optimizer step."""
        return self.batch_size * self.accumulate * self.world_size

    def positions(self, step: int, rank: int) -> np.ndarray:
        """The positions of one step on one rank, in the order of its micro batches: [accumulate · batch_size]."""
        grid = np.arange(step * self.global_batch, (step + 1) * self.global_batch)
        return grid.reshape(self.batch_size, self.accumulate, self.world_size)[..., rank].T.ravel()


def shards_in_order(images: np.ndarray, shard_sizes: np.ndarray) -> np.ndarray:
    """The shards that contain these images, in the order in which they are first needed."""
    shards, first = np.unique(np.searchsorted(np.cumsum(shard_sizes), images, side="right"), return_index=True)
    return shards[np.argsort(first)]


@dataclass(eq=False)
class TrainSampler(SequentialSampler):
    """One rank's samples of each epoch, in whole optimizer steps; the first epoch can start at any step.

    It is a SequentialSampler in name only, because Lightning's overfit mode replaces every other kind.
    """

    shuffle: Shuffle
    layout: BatchLayout
    rank: int = 0
    epoch: int = 0
    step: int = 0
    frozen: bool = False  # repeat the first epoch's order forever, to overfit
    on_epoch: Callable[[np.ndarray], None] | None = None  # gets the image indices of an epoch when it starts

    @property
    def steps(self) -> int:
        """Optimizer steps per full epoch."""
        return self.shuffle.length // self.layout.global_batch

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, including the one that a run resumes in."""
        if epoch != self.epoch and not self.frozen:
            self.epoch, self.step = epoch, 0

    def __len__(self) -> int:
        """Samples per full epoch, even if this one was resumed."""
        return self.steps * self.layout.batch_size * self.layout.accumulate

    def __iter__(self) -> Iterator[SampleKey]:
        epoch, order = self.epoch, self.shuffle(self.epoch)
        if self.on_epoch is not None:
            self.on_epoch(order[self.step * self.layout.global_batch :])
        for step in range(self.step, self.steps):
            for position in self.layout.positions(step, self.rank).tolist():
                yield SampleKey(int(order[position]), epoch, position)


class EvalSampler(SequentialSampler):
    """One rank's share of a validation set, without padding: each image exactly once over all ranks.

    Shares are consecutive, so each machine fetches only its own shards. They may differ by one image.
    """

    def __init__(self, num_images: int, world_size: int = 1, rank: int = 0) -> None:
        self.images = range(num_images * rank // world_size, num_images * (rank + 1) // world_size)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(index, 0, index) for index in self.images)
