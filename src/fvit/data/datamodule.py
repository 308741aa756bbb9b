"""The LightningDataModule: a data source, its transforms, and loaders that are exact on any number of ranks."""

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
from fvit.data.dataset import Batch, ImageDataset, Transform, collate, ignore_group_signals
from fvit.data.faults import FaultLog
from fvit.data.formats import decode
from fvit.data.images import DataError, Images
from fvit.data.resident import ResidentDataset
from fvit.data.sampler import BatchLayout, EvalSampler, ShardWindows, Shuffle, TrainSampler, shards_in_order
from fvit.data.seeding import SampleKey
from fvit.data.size_schedule import SizedDataset, SizeSchedule
from fvit.data.transforms.batch import BatchTransform
from fvit.data.transforms.draws import Draw
from fvit.data.transforms.image import EvalTransform, TrainTransform

log = logging.getLogger(__name__)

# A worker that delivers nothing for this long counts as dead. Reads have much shorter timeouts of their own.
_WORKER_TIMEOUT = 1800


class ImageDataModule(LightningDataModule):
    """Batches of images from one source.

    In training, each rank takes its share of a shuffle that depends on (seed, epoch) alone, in whole optimizer steps.
    In validation, each image is seen exactly once over all ranks. Checkpoints contain the position within the epoch: a
    resumed run sees the same images, with the same augmentations, as if it had not been interrupted.

    Args:
        name: the source, a key of `fvit.data.SOURCES`; further arguments are its options.
        img_size: side of the model's input in pixels.
        size_schedule: sides of the training images over the run, at most `img_size`; see `SizeSchedule`. Validation
            images always have `img_size`.
        batch_size: training images per micro batch and rank.
        accumulate: micro batches per optimizer step.
        eval_batch_size: validation images per batch and rank; 0 means `batch_size`.
        num_workers: loader processes per rank.
        crop_pct: share of the shorter side that validation's centre crop keeps.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        mean, std: of the channels, for pixels in [0, 1].
        augment: ``transform`` (arguments of `TrainTransform`, and ``no_aug``), ``erasing`` (of `RandomErasing`),
            ``mixup`` (of `Mixup`) and ``num_repeats`` (repeated augmentation: how often an image is drawn per epoch).
        decoder: see `fvit.data.formats.decode.choose`.
        skip_limit: number of damaged images per epoch and rank that are skipped.
        resident: keep all images on the device, and crop and flip there; for small images of one size.

    Attributes:
        positions: int64 [B], of the current batch in the epoch; in validation, the images' indices, ascending.
        resident: with `resident`, the images on the device: those for training (True) and for validation (False).
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
        resident: bool = False,
        size_schedule: Sequence[int] | None = None,
        **source: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.decoder = decode.choose(decoder)
        self.source = sources.load(name, **source)
        self.classes = self.source.classes
        self.augment = dict(augment or {})
        self._train_transforms = {size: self._build_train_transform(size) for size in size_schedule or [img_size]}
        self.batch_transform = BatchTransform(
            len(self.classes), mean, std, self.augment.get("mixup", {}), self.augment.get("erasing", {}), seed
        )
        if self.batch_transform.mixup is not None and batch_size % 2:
            raise ValueError(f"mixup and cutmix pair images and need an even batch on each device, not {batch_size}")
        if resident and size_schedule and not isinstance(self._train_transforms[size_schedule[0]], TrainTransform):
            raise ValueError("data.size_schedule resizes crops: with data.resident=true it needs augment=light")
        self.faults = FaultLog(skip_limit)
        self.positions: Tensor | None = None
        self._sampler: TrainSampler | None = None
        self.resident: dict[bool, ResidentDataset] = {}
        self._last: tuple[int, int] | None = None  # epoch and first position of the latest training batch
        self._resumed: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def batch_layout(self) -> BatchLayout:
        """How an optimizer step is divided among ranks and micro batches."""
        return BatchLayout(self.hparams.batch_size, self.hparams.accumulate, self._world()[0])

    @property
    def schedule(self) -> SizeSchedule:
        """The sizes of the training images; without a Trainer, of one epoch each."""
        size, sizes = self.hparams.img_size, tuple(self.hparams.size_schedule or ())
        epochs = self.trainer.max_epochs if self.trainer and sizes else max(1, len(sizes))
        return SizeSchedule(sizes or (size,), size, epochs)

    def facts(self) -> list[tuple[str, str]]:
        """Names and values for the summary that is printed before training."""
        return [("image sizes", str(self.schedule))] if self.hparams.size_schedule else []

    def train_dataloader(self) -> DataLoader:
        images, schedule, layout = self.source.train, self.schedule, self.batch_layout
        if len(images) < layout.global_batch:
            raise ValueError(
                f"{len(images)} training images are fewer than one batch of {layout.global_batch}; "
                f"take global_batch_size={len(images) // layout.world_size * layout.world_size} or less"
            )
        if (mixup := self.batch_transform.mixup) is not None:
            mixup.global_batch = layout.global_batch
            if mixup.off_epochs and self.trainer:
                mixup.epochs = self.trainer.max_epochs
        if self.hparams.size_schedule and self.trainer:
            # The Trainer asks for a loader in each epoch if their layouts differ.
            layout = schedule.layout(layout, self._next_epoch())
            self.trainer.accumulate_grad_batches = layout.accumulate
        self._sampler = self._train_sampler(layout)
        draw = self.batch_transform.draw
        if self.hparams.resident:  # its samples do not have the images' shape
            draw = partial(schedule.draw, draw)
        return self._loader(self._train_set(), layout.batch_size, self._sampler, draw)

    def val_dataloader(self) -> DataLoader:
        world, rank = self._world()
        count = len(self.source.val)
        if count < world:
            raise ValueError(f"{count} validation images are not enough for {world} ranks")
        batch_size = self.hparams.eval_batch_size or self.hparams.batch_size
        dataset = self._val_set()
        if self.hparams.resident:
            dataset = self._keep(False, dataset.images, dataset.transform)
        return self._loader(dataset, batch_size, EvalSampler(count, world, rank))

    def val_images(self, indices: Sequence[int]) -> Batch:
        """A batch of these validation images, without those that cannot be read."""
        dataset = self._val_set()
        return collate([dataset[SampleKey(index, 0, index)] for index in indices])

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.faults.note(batch.faults)
        self.positions = batch.positions
        if self.trainer.training:
            self._last = int(batch.epochs[0]), int(batch.positions[0])
        return batch._replace(faults=())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalise and augment on the device."""
        training = self.trainer.training
        if self.hparams.resident:
            size = self.schedule(self._last[0]) if training else self.hparams.img_size
            batch = batch._replace(images=self.resident[training].take(batch.images, size))
        return self.batch_transform(batch, training, self.trainer.lightning_module.dtype)

    def state_dict(self) -> dict[str, Any]:
        """The position from which training continues, and what the order depends on besides the seed."""
        if self._sampler is None:
            return {}
        layout, windows = self._sampler.layout, self._sampler.shuffle.windows
        epoch, step = self._next_step(layout)
        return {
            "epoch": epoch,
            "position": step * layout.global_batch,
            "images": len(self.source.train),
            "windows": windows and (windows.shards, windows.nodes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Note the position to resume at; Lightning calls this before it asks for loaders."""
        if state and state["position"] and state["images"] != len(self.source.train):
            raise DataError(
                f"the run was stopped within an epoch of {state['images']:,} training images, but there are now "
                f"{len(self.source.train):,}: resume it with the data that it started with"
            )
        self._resumed = state

    @property
    def resumed_batches(self) -> int:
        """Micro batches of the first epoch that were done before this run resumed."""
        layout = self.schedule.layout(self.batch_layout, self._resumed.get("epoch", 0))
        return self._resumed.get("position", 0) // layout.global_batch * layout.accumulate

    def _next_step(self, layout: BatchLayout) -> tuple[int, int]:
        """Epoch and step after the last complete one: micro batches of an incomplete step are repeated on resume."""
        if self._last is None:
            return self._resumed.get("epoch", 0), self._resumed.get("position", 0) // layout.global_batch
        loop = self.trainer.fit_loop
        progress = loop.epoch_loop.batch_progress.current
        if progress.ready >= loop.max_batches and progress.processed == progress.ready:
            return self._last[0] + 1, 0
        epoch, (step, offset) = self._last[0], divmod(self._last[1], layout.global_batch)
        micro_batch = offset // layout.world_size % layout.accumulate
        complete = micro_batch == layout.accumulate - 1 and progress.processed == progress.ready
        return epoch, step + complete

    def _next_epoch(self) -> int:
        """The epoch that a loader is asked for; before the loops are restored, only the checkpoint knows it."""
        reloads = self.trainer and self.hparams.size_schedule
        return max(self._resumed.get("epoch", 0), self.trainer.current_epoch if reloads else 0)

    def _train_sampler(self, layout: BatchLayout) -> TrainSampler:
        images, resumed, (world, rank) = self.source.train, self._resumed, self._world()
        epoch = self._next_epoch()
        num_nodes = self.trainer.num_nodes if self.trainer else 1
        ranks_per_node = world // num_nodes
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

        return TrainSampler(
            Shuffle(len(images), self.hparams.seed, self.augment.get("num_repeats", 1), windows),
            layout,
            rank=node + num_nodes * local_rank,  # gives each node the positions of its own shards
            epoch=epoch,
            step=resumed.get("position", 0) // layout.global_batch if epoch == resumed.get("epoch", 0) else 0,
            frozen=bool(self.trainer and self.trainer.overfit_batches),
            on_epoch=prefetch if local_rank == 0 else None,
        )

    def _train_set(self) -> ImageDataset | SizedDataset | ResidentDataset:
        images, transforms = self.source.train, self._train_transforms
        if self.hparams.resident:
            return self._keep(True, images, next(iter(transforms.values())))
        datasets = {size: ImageDataset(images, t, self.hparams.seed, replace=True) for size, t in transforms.items()}
        return next(iter(datasets.values())) if len(datasets) == 1 else SizedDataset(self.schedule, datasets)

    def _build_train_transform(self, size: int) -> TrainTransform | EvalTransform:
        hp = self.hparams
        options = {"no_aug": True, **self.augment.get("transform", {})}
        if options.pop("no_aug"):
            return EvalTransform(self.decoder, size, 1.0, hp.interpolation)
        return TrainTransform(self.decoder, size, interpolation=hp.interpolation, mean=hp.mean, **options)

    def _val_set(self) -> ImageDataset:
        hp = self.hparams
        transform = EvalTransform(self.decoder, hp.img_size, hp.crop_pct, hp.interpolation)
        return ImageDataset(self.source.val, transform, hp.seed, replace=False)

    def _keep(self, training: bool, images: Images, transform: Transform) -> ResidentDataset:
        if training not in self.resident:
            self.resident[training] = ResidentDataset(images, self.decoder, transform, self.hparams.seed)
        return self.resident[training]

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(
        self,
        dataset: ImageDataset | SizedDataset | ResidentDataset,
        batch_size: int,
        sampler: TrainSampler | EvalSampler,
        draw: Draw | None = None,
    ) -> DataLoader:
        workers = 0 if self.hparams.resident else self.hparams.num_workers
        return DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            collate_fn=partial(collate, draw=draw),
            num_workers=workers,
            persistent_workers=workers > 0,
            timeout=_WORKER_TIMEOUT if workers else 0,
            pin_memory=self.hparams.pin_memory,
            worker_init_fn=ignore_group_signals,
            # A loader draws a seed, which nothing here uses. Drawn from the global generator, it would change dropout.
            generator=torch.Generator(),
        )
