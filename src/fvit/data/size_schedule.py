"""Progressive resolution: the size of the training images as a function of the epoch alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch.utils.data import Dataset

from fvit.config.wording import count
from fvit.data.dataset import ImageDataset, Sample
from fvit.data.sampler import BatchLayout
from fvit.data.seeding import SampleKey


@dataclass(frozen=True)
class SizeSchedule:
    """The sizes of a run in order, each for an equal share of its epochs, rounded to whole ones.

    An optimizer step has the same images at any size, so the number of steps and the learning rates do not change.
    What changes is their division: micro batches that fit into memory at `full` size are merged where images are
    smaller.

    Raises:
        ValueError: there are more sizes than epochs.
    """

    sizes: tuple[int, ...]  # sides in pixels, at most `full`; one that is repeated has several shares
    full: int  # side in pixels of the validation images, for which micro batches are sized
    epochs: int

    def __post_init__(self) -> None:
        if len(self.sizes) > self.epochs:
            raise ValueError(
                f"data.size_schedule={list(self.sizes)} has {len(self.sizes)} sizes for {self.epochs} epochs; give at "
                "most one per epoch"
            )

    def __call__(self, epoch: int) -> int:
        """The size of an epoch, counted from 0, in pixels."""
        return self.sizes[min(epoch, self.epochs - 1) * len(self.sizes) // self.epochs]

    def layout(self, full: BatchLayout, epoch: int) -> BatchLayout:
        """The division of a step in this epoch, given that of full-sized images.

        Activations take memory in proportion to pixels, at least, so as many micro batches are merged as have the
        pixels of one, if their number divides `full.accumulate`.
        """
        fitting = (self.full / self(epoch)) ** 2
        merged = next(n for n in range(full.accumulate, 0, -1) if full.accumulate % n == 0 and n <= max(1, fitting))
        return BatchLayout(full.batch_size * merged, full.accumulate // merged, full.world_size)

    def __str__(self) -> str:
        shares = [sum(self(epoch) == size for epoch in range(self.epochs)) for size in dict.fromkeys(self.sizes)]
        parts = zip(dict.fromkeys(self.sizes), shares, strict=True)
        return ", ".join(f"{size} px for {count(epochs, 'epoch')}" for size, epochs in parts)


@dataclass(eq=False)
class SizedDataset(Dataset):
    """Training images of the size of their epoch: a dataset per size."""

    schedule: SizeSchedule
    datasets: Mapping[int, ImageDataset]

    def __len__(self) -> int:
        return len(next(iter(self.datasets.values())))

    def __getitem__(self, key: SampleKey) -> Sample:
        return self.datasets[self.schedule(key.epoch)][key]
