"""The LightningDataModule: one source, its transforms, and loaders that are exact on any number of ranks."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader

from fvit.data import sources
from fvit.data.dataset import Batch, ImageDataset, collate, ignore_group_signals
from fvit.data.faults import FaultLog
from fvit.data.formats import decode
from fvit.data.images import DataError
from fvit.data.sampler import BatchLayout, EvalSampler, ShardWindows, Shuffle, TrainSampler, shards_in_order
from fvit.data.seeding import SampleKey
from fvit.data.transforms.batch import BatchTransform
from fvit.data.transforms.image import EvalTransform, TrainTransform

log = logging.getLogger(__name__)

# A worker that gives nothing for so many seconds is taken for dead. Reads have deadlines of their own, far shorter.
_WORKER_TIMEOUT = 1800


class ImageDataModule(LightningDataModule):
    """Images of one source, in batches.

    Training: each rank draws its share of a shuffle that is a function of (seed, epoch), in whole optimizer steps.
    Validation: every image exactly once over all ranks. The position in the epoch is part of a checkpoint: a run that
    goes on sees the images, and the augmentations, that it would have seen.

    Args:
        name: the source, a key of `fvit.data.SOURCES`.
        img_size: side of the images a model sees, in pixels.
        batch_size: images a rank takes at once.
        accumulate: batches a rank takes for one optimizer step.
        eval_batch_size: images a rank takes at once in validation; 0 means `batch_size`.
        num_workers: loader processes a rank.
        crop_pct: share of the shorter side that the centre crop of validation keeps.
        interpolation: ``bilinear``, ``bicubic``, ….
        mean, std: of the channels, for pixels in [0, 1].
        augment: ``transform`` (arguments of `TrainTransform`, and ``no_aug``), ``erasing`` (of `RandomErasing`),
            ``mixup`` (of `Mixup`) and ``num_repeats`` (repeated augmentation: how often an image is drawn per epoch).
        decoder: ``auto``, ``turbo``, ``simplejpeg`` or ``pil``.
        skip_limit: damaged images an epoch that a rank skips before it gives up.
        seed: of the order and of the augmentations.
        pin_memory: page-locked batches, for copies to a GPU.
        source: the source's own options.

    Attributes:
        positions: int64 [B], which images the newest batch holds: in validation their indices, ascending over a rank's
            batches.
    """

    def __init__(
        self,
        name: str,
        img_size: int,
        batch_size: int,
        accumulate: int = 1,
        eval_batch_size: int = 0,
        num_workers: int = 0,
        crop_pct: float = 0.875,
        interpolation: str = "bicubic",
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
        augment: Mapping[str, Any] | None = None,
        decoder: str = "auto",
        skip_limit: int = 100,
        seed: int = 0,
        pin_memory: bool = False,
        **source: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.decoder = decode.choose(decoder)
        self.source = sources.load(name, **source)
        self.classes = self.source.classes
        self.augment = dict(augment or {})
        self.batch_transform = BatchTransform(
            len(self.classes), mean, std, self.augment.get("mixup", {}), self.augment.get("erasing", {}), seed
        )
        if self.batch_transform.mix is not None and batch_size % 2:
            raise ValueError(f"mixup and cutmix pair images and need an even batch on each device, not {batch_size}")
        self.faults = FaultLog(skip_limit)
        self.positions: Tensor | None = None
        self._draws: TrainSampler | None = None
        self._last: tuple[int, int] | None = None  # epoch and first position of the newest training batch
        self._resumed: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.classes)

    @property
    def layout(self) -> BatchLayout:
        """How a step's images lie on ranks."""
        return BatchLayout(self.hparams.batch_size, self.hparams.accumulate, self._world()[0])

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches of equal size."""
        images, layout, (world, rank) = self.source.train, self.layout, self._world()
        if len(images) < layout.global_batch:
            raise ValueError(
                f"{len(images)} training images give no batch of {layout.global_batch}; "
                f"take global_batch_size={len(images) // world * world} or less"
            )
        resumed, nodes = self._resumed, self.trainer.num_nodes if self.trainer else 1
        windows = None
        if resumed.get("windows", images.window) is not None:
            shards, lanes = resumed.get("windows") or (images.window, nodes)
            windows = ShardWindows(images.shard_sizes, shards, lanes)
            if rank == 0:
                log.info(
                    "this machine's cache does not hold all %d shards of training images: they are mixed %d at a time",
                    len(images.shard_sizes),
                    shards,
                )
        # A machine's ranks take the lane that has the machine's number.
        local = world // nodes
        seat = rank // local + nodes * (rank % local)
        shuffle = Shuffle(len(images), self.hparams.seed, self.augment.get("num_repeats", 1), windows)
        epoch, step = resumed.get("epoch", 0), resumed.get("position", 0) // layout.global_batch
        frozen = bool(self.trainer and self.trainer.overfit_batches)
        # One rank a machine fetches ahead for all.
        lanes = windows.lanes if windows else 1
        announce = partial(self._fetch_ahead, seat % lanes, lanes) if rank % local == 0 else None
        self._draws = TrainSampler(shuffle, layout, seat, epoch, step, frozen, announce)
        if self.batch_transform.mix is not None:
            self.batch_transform.mix.global_batch = layout.global_batch
        return self._loader(self._train_set(), self.hparams.batch_size, self._draws)

    def val_dataloader(self) -> DataLoader:
        """Each image exactly once over all ranks, in order."""
        hp, (world, rank) = self.hparams, self._world()
        images = self.source.val
        if len(images) < world:
            raise ValueError(f"{len(images)} validation images do not give each of {world} ranks one")
        return self._loader(self._val_set(), hp.eval_batch_size or hp.batch_size, EvalSampler(len(images), world, rank))

    def val_images(self, indices: Sequence[int]) -> Batch:
        """Some images of validation, without the rest; those that cannot be read are left out."""
        loaded = self._val_set()
        return collate([loaded[SampleKey(index, 0, index)] for index in indices])

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count what could not be used, and note which images these are and how far training has come."""
        self.faults.note(batch.faults)
        self.positions = batch.positions
        if self.trainer.training:
            self._last = int(batch.epochs[0]), int(batch.positions[0])
        return batch._replace(faults=())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalise and augment on the device."""
        return self.batch_transform(batch, self.trainer.training, self.trainer.lightning_module.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch's order training goes on, and what that order depends on beside the seed."""
        if self._draws is None:
            return {}
        layout, windows = self._draws.layout, self._draws.shuffle.windows
        epoch, step = self._next_step(layout)
        return {
            "epoch": epoch,
            "position": step * layout.global_batch,
            "images": len(self.source.train),
            "windows": windows and (windows.shards, windows.lanes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Note where to go on; Lightning calls this before it asks for loaders.

        Raises:
            DataError: the training set has another number of images than when the run was stopped within an epoch.
        """
        if state and state["position"] and state["images"] != len(self.source.train):
            raise DataError(
                f"the run was stopped within an epoch of {state['images']:,} training images, and now there are "
                f"{len(self.source.train):,}: it can go on with the data that it began with"
            )
        self._resumed = state

    @property
    def resumed_batches(self) -> int:
        """Batches of its first epoch that lie behind a run that goes on, counted in batches of this run."""
        return self._resumed.get("position", 0) // self.layout.global_batch * self.layout.accumulate

    def _next_step(self, layout: BatchLayout) -> tuple[int, int]:
        """Epoch and step after the last finished one.

        Batches of an unfinished step are lost with its gradients: a run that goes on takes them again.
        """
        if self._last is None:
            return self._resumed.get("epoch", 0), self._resumed.get("position", 0) // layout.global_batch
        loop = self.trainer.fit_loop
        progress = loop.epoch_loop.batch_progress.current
        if progress.ready >= loop.max_batches and progress.processed == progress.ready:
            return self._last[0] + 1, 0
        epoch, (step, place) = self._last[0], divmod(self._last[1], layout.global_batch)
        micro = place // layout.world_size % layout.accumulate
        finished = micro == layout.accumulate - 1 and progress.processed == progress.ready
        return epoch, step + finished

    def _fetch_ahead(self, lane: int, lanes: int, order: np.ndarray) -> None:
        images = self.source.train
        if images.shard_sizes is not None:
            images.prefetch(shards_in_order(order[lane::lanes], images.shard_sizes))

    def _train_set(self) -> ImageDataset:
        hp = self.hparams
        options = {"no_aug": True, **self.augment.get("transform", {})}
        if options.pop("no_aug"):
            transform: Any = EvalTransform(self.decoder, hp.img_size, 1.0, hp.interpolation)
        else:
            transform = TrainTransform(
                self.decoder, hp.img_size, interpolation=hp.interpolation, mean=hp.mean, **options
            )
        return ImageDataset(self.source.train, transform, hp.seed, replace=True)

    def _val_set(self) -> ImageDataset:
        hp = self.hparams
        transform = EvalTransform(self.decoder, hp.img_size, hp.crop_pct, hp.interpolation)
        return ImageDataset(self.source.val, transform, hp.seed, replace=False)

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, images: ImageDataset, batch_size: int, sampler: TrainSampler | EvalSampler) -> DataLoader:
        workers = self.hparams.num_workers
        return DataLoader(
            images,
            batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            timeout=_WORKER_TIMEOUT if workers else 0,
            pin_memory=self.hparams.pin_memory,
            worker_init_fn=ignore_group_signals,
            # Each loader draws a seed for workers that need none, and when it does so depends on how often the run was
            # stopped: not from the generator of dropout.
            generator=torch.Generator(),
        )
