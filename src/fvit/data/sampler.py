"""Which image stands where in an epoch: a function of (seed, epoch) alone, shared out to ranks and micro batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import SequentialSampler

from fvit.data.seeding import SampleKey


@dataclass(frozen=True)
class ShardWindows:
    """For shards that no machine holds all of: an order that needs a few at a time.

    Attributes:
        shard_sizes: images a shard; consecutive images share one.
        shards: how many are mixed at a time.
        lanes: shares of the shards, one a machine; neighbouring places of the order lie in different lanes.
    """

    shard_sizes: np.ndarray
    shards: int
    lanes: int = 1


@dataclass(frozen=True)
class Shuffle:
    """The order of a training set, anew each epoch.

    With `num_repeats` each image drawn fills as many consecutive places, which lie on different ranks or in different
    micro batches (repeated augmentation, Hoffer et al., arXiv:1901.09335; as in DeiT, an epoch keeps its length and
    sees fewer images).
    """

    num_images: int
    seed: int = 0
    num_repeats: int = 1
    windows: ShardWindows | None = None

    def __call__(self, epoch: int) -> np.ndarray:
        """Indices of images, [num_images] or a few less where lanes do not divide them."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(self.num_images) if self.windows is None else self._in_windows(rng)
        return np.repeat(order[: -(-len(order) // self.num_repeats)], self.num_repeats)[: len(order)]

    def _lanes(self, rng: np.random.Generator) -> np.ndarray:
        """Whole shards, shuffled, laid end to end and cut into equal lanes: [lanes, images a lane]."""
        ends = np.cumsum(self.windows.shard_sizes)
        shards = rng.permutation(len(ends))
        images = np.concatenate([np.arange(ends[i] - self.windows.shard_sizes[i], ends[i]) for i in shards])
        each = self.num_images // self.windows.lanes
        return images[: each * self.windows.lanes].reshape(self.windows.lanes, each)

    def _in_windows(self, rng: np.random.Generator) -> np.ndarray:
        lanes = self._lanes(rng)
        window = max(1, round(self.windows.shards * float(np.mean(self.windows.shard_sizes))))
        for lane in lanes:
            for start in range(0, len(lane), window):
                rng.shuffle(lane[start : start + window])
        return lanes.T.ravel()


@dataclass(frozen=True)
class BatchLayout:
    """How the images of an optimizer step lie on ranks and in micro batches.

    Position p of the order belongs to step ``p // global_batch``. Within a step, positions are dealt out in turn to
    the ranks' first micro batches, then to the second ones, and so on. So a step has the same images on any number of
    ranks, and two that lie half a step apart are always in the same micro batch, where mixup needs them.

    Attributes:
        batch_size: images a rank takes at once.
        accumulate: micro batches a step.
        world_size: ranks.
    """

    batch_size: int
    accumulate: int = 1
    world_size: int = 1

    @property
    def global_batch(self) -> int:
        """Images an optimizer step."""
        return self.batch_size * self.accumulate * self.world_size

    def positions(self, steps: range, rank: int) -> np.ndarray:
        """The positions that a rank takes in these steps, in the order of its batches: [images]."""
        grid = np.arange(steps.start * self.global_batch, steps.stop * self.global_batch)
        grid = grid.reshape(len(steps), self.batch_size, self.accumulate, self.world_size)
        return grid[..., rank].transpose(0, 2, 1).ravel()


def shards_in_order(images: np.ndarray, shard_sizes: np.ndarray) -> np.ndarray:
    """The shards that these images lie in, in the order in which they are needed first."""
    found, first = np.unique(np.searchsorted(np.cumsum(shard_sizes), images, side="right"), return_index=True)
    return found[np.argsort(first)]


class TrainSampler(SequentialSampler):
    """One rank's draws of an epoch, from any step on. What does not fill a global batch is left out of the epoch.

    A SequentialSampler by name only: the one kind that Lightning's overfit mode does not replace.

    Args:
        shuffle: the order.
        layout: what of it is whose.
        rank: whose draws these are.
        epoch, step: where to begin; the epochs after the first begin at their start.
        frozen: the first epoch's images again and again, to overfit on.
        announce: told the images of an epoch, in their order, when it begins.
    """

    def __init__(
        self,
        shuffle: Shuffle,
        layout: BatchLayout,
        rank: int = 0,
        epoch: int = 0,
        step: int = 0,
        frozen: bool = False,
        announce: Callable[[np.ndarray], None] | None = None,
    ) -> None:
        self.shuffle, self.layout, self.rank, self.frozen = shuffle, layout, rank, frozen
        self.announce = announce
        self.epoch, self.step = epoch, step
        places = shuffle.num_images
        if shuffle.windows is not None:
            places -= places % shuffle.windows.lanes
        self.steps = places // layout.global_batch

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, the one that a run goes on in included."""
        if epoch != self.epoch and not self.frozen:
            self.epoch, self.step = epoch, 0

    def __len__(self) -> int:
        """TrainSampler of a whole epoch, also where this one has begun before."""
        return self.steps * self.layout.batch_size * self.layout.accumulate

    def __iter__(self) -> Iterator[SampleKey]:
        epoch, order = self.epoch, self.shuffle(self.epoch)
        if self.announce is not None:
            self.announce(order[self.step * self.layout.global_batch :])
        for step in range(self.step, self.steps):
            for position in self.layout.positions(range(step, step + 1), self.rank).tolist():
                yield SampleKey(int(order[position]), epoch, position)


class EvalSampler(SequentialSampler):
    """One rank's share of a validation set: consecutive images, each once over all ranks.

    Consecutive, so that a machine fetches its own shards alone. Ranks may hold one image more or less, which the
    metrics allow for.
    """

    def __init__(self, num_images: int, world_size: int = 1, rank: int = 0) -> None:
        self.images = range(num_images * rank // world_size, num_images * (rank + 1) // world_size)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(index, 0, index) for index in self.images)
