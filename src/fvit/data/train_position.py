"""Where a run is in its training images: what its checkpoints keep of that, and the sampler that continues there."""

import logging
from typing import Any

import numpy as np
from lightning import Trainer

from fvit.data.dataset import Batch
from fvit.data.images import DataError
from fvit.data.sampler import BatchLayout, ShardWindows, Shuffle, TrainSampler, shards_in_order
from fvit.data.sources import Source

log = logging.getLogger(__name__)


class TrainPosition:
    """The position of a run in its training images, in whole optimizer steps.

    An epoch's order is a function of the seed, the epoch and the shards that are mixed at a time. So these and the
    number of images done are all that a checkpoint needs.

    Args:
        source: whose training images the run takes.
        seed, num_repeats: of the `Shuffle`.
    """

    def __init__(self, source: Source, seed: int, num_repeats: int) -> None:
        self._source, self._seed, self._num_repeats = source, seed, num_repeats
        self._sampler: TrainSampler | None = None
        self._last: tuple[int, int] | None = None  # epoch and first position of the latest batch
        self._resumed: dict[str, Any] = {}

    @property
    def first_epoch(self) -> int:
        """The epoch, counted from 0, that the run started or resumed in."""
        return self._resumed.get("epoch", 0)

    def first_step(self, layout: BatchLayout) -> int:
        """The optimizer step of that epoch, counted from 0, that the run started or resumed at."""
        return self._resumed.get("position", 0) // layout.global_batch

    @property
    def epoch(self) -> int:
        """The epoch of the latest batch."""
        return self._last[0]

    def note(self, batch: Batch) -> None:
        """Note the latest training batch."""
        self._last = int(batch.epochs[0]), int(batch.positions[0])

    def sampler(
        self, layout: BatchLayout, epoch: int, rank: int, ranks_per_node: int, frozen: bool = False
    ) -> TrainSampler:
        """One rank's sampler from `epoch` on, which starts at `first_step` if that is the run's first one.

        Raises:
            ValueError: there are too few images for one step.
        """
        images, resumed = self._source.train, self._resumed
        if len(images) < layout.global_batch:
            raise ValueError(
                f"{len(images)} training images are fewer than one batch of {layout.global_batch}; "
                f"take global_batch_size={len(images) // layout.world_size * layout.world_size} or less"
            )
        num_nodes = layout.world_size // ranks_per_node
        node, local_rank = divmod(rank, ranks_per_node)
        windows = None
        if resumed.get("windows", images.window) is not None:
            shards, nodes = resumed.get("windows") or (images.window, num_nodes)
            windows = ShardWindows(images.shard_sizes, shards, nodes)
            if rank == 0:
                total = len(images.shard_sizes)
                log.info("the cache cannot hold all %d shards of training images: mixing %d at a time", total, shards)

        def prefetch(order: np.ndarray) -> None:
            if images.shard_sizes is not None:
                nodes = windows.nodes if windows else 1
                images.prefetch(shards_in_order(order[node % nodes :: nodes], images.shard_sizes))

        self._sampler = TrainSampler(
            Shuffle(len(images), self._seed, self._num_repeats, windows),
            layout,
            rank=node + num_nodes * local_rank,  # gives each node the positions of its own shards
            epoch=epoch,
            step=self.first_step(layout) if epoch == self.first_epoch else 0,
            frozen=frozen,
            on_epoch=prefetch if local_rank == 0 else None,
        )
        return self._sampler

    def state(self, trainer: Trainer) -> dict[str, Any]:
        """The position from which training continues, and what the order depends on besides the seed."""
        if self._sampler is None:
            return {}
        layout, windows = self._sampler.layout, self._sampler.shuffle.windows
        epoch, step = self._next(layout, trainer)
        return {
            "epoch": epoch,
            "position": step * layout.global_batch,
            "images": len(self._source.train),
            "records": self._source.records_digest,
            "windows": windows and (windows.shards, windows.nodes),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Continue at the position of this state.

        Raises:
            DataError: the training images are others than those of the state.
        """
        images = len(self._source.train)
        if state and state["position"] and state["images"] != images:
            raise DataError(
                f"the run was stopped within an epoch of {state['images']:,} training images, but there are now "
                f"{images:,}: resume it with the data that it started with"
            )
        if state.get("records", self._source.records_digest) != self._source.records_digest:
            raise DataError(
                "other images are held out than when the run started, so that some of them were trained on: resume it "
                "with the images that it started with, or start a new run"
            )
        self._resumed = state

    def _next(self, layout: BatchLayout, trainer: Trainer) -> tuple[int, int]:
        """Epoch and step after the last complete one: micro batches of an incomplete step are repeated on resume."""
        if self._last is None:
            return self.first_epoch, self.first_step(layout)
        loop = trainer.fit_loop
        progress = loop.epoch_loop.batch_progress.current
        if progress.ready >= loop.max_batches and progress.processed == progress.ready:
            return self._last[0] + 1, 0
        epoch, (step, offset) = self._last[0], divmod(self._last[1], layout.global_batch)
        micro_batch = offset // layout.world_size % layout.accumulate
        complete = micro_batch == layout.accumulate - 1 and progress.processed == progress.ready
        return epoch, step + complete
