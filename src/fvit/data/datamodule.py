"""The LightningDataModule: a data source, its transforms, and loaders that are exact on any number of ranks."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import to_2tuple
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fvit.data import sources
from fvit.data.dataset import Batch, ImageDataset, Transform, collate, ignore_group_signals
from fvit.data.faults import FaultLog
from fvit.data.formats import decode
from fvit.data.images import Images
from fvit.data.resident import ResidentDataset
from fvit.data.sampler import BatchLayout, EvalSampler
from fvit.data.seeding import SampleKey
from fvit.data.size_schedule import SizedDataset, SizeSchedule
from fvit.data.train_position import TrainPosition
from fvit.data.transfer import SideStream
from fvit.data.transforms.batch import BatchTransform
from fvit.data.transforms.build import eval_transform, train_transform
from fvit.data.transforms.draws import Draw
from fvit.data.transforms.image import TrainTransform
from fvit.data.transforms.naflex import NaFlexBatchTransform
from fvit.data.workers import PREFETCH_FACTOR, choose_workers, warn_of_shared_memory

# A worker that delivers nothing for this long counts as dead. Reads have much shorter timeouts of their own.
_WORKER_TIMEOUT = 1800
_NAMES = {"val": "validation", "test": "test"}


class ImageDataModule(LightningDataModule):
    """Batches of images from one source.

    In training, each rank takes its share of a shuffle that depends on (seed, epoch) alone, in whole optimizer steps.
    In validation and test, each image is seen exactly once over all ranks. Checkpoints contain the position within the
    epoch: a resumed run sees the same images, with the same augmentations, as if it had not been interrupted.

    Args:
        name: the source, a key of `fvit.data.SOURCES`; further arguments are its options.
        img_size: of the model's input in pixels: the side of a square, or height and width.
        size_schedule: sides of the training images over the run, at most `img_size`; see `SizeSchedule`. Validation
            images always have `img_size`.
        batch_size: training images per micro batch and rank.
        accumulate: micro batches per optimizer step.
        eval_batch_size: validation images per batch and rank; 0 means `batch_size`.
        num_workers: loader processes per rank, or ``auto``; see `fvit.data.workers.choose_workers`.
        prefetch_factor: batches that each of them prepares in advance; None for torch's default, 2.
        crop_pct: share of the shorter side that validation's centre crop keeps.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        mean, std: of the channels, for pixels in [0, 1].
        augment: ``transform`` (arguments of `TrainTransform`, and ``no_aug``), ``erasing`` (of `RandomErasing`),
            ``mixup`` (of `Mixup`) and ``num_repeats`` (repeated augmentation: how often an image is drawn per epoch).
        decoder: see `fvit.data.formats.decode.choose`.
        skip_limit: number of damaged images per epoch and rank that are skipped.
        resident: keep all images on the device, and crop and flip there; for small images of one size.
        crop_mode: of `EvalTransform`.
        naflex: for timm's NaFlexVit, the side of a patch in pixels: images keep their aspect ratio, uncropped in
            validation, and become padded sequences of as many patches as `img_size` has
            (`fvit.data.transforms.naflex`).
        eval_crops: 5 evaluates four corners and the centre, below each other in one image (`FiveCrop`); 1 the centre.

    Attributes:
        positions: int64 [B], of the current batch in the epoch; in validation, the images' indices, ascending.
        resident: with `resident`, the images on the device, by the name of their split.
    """

    def __init__(
        self,
        name: str,
        img_size: int | Sequence[int],
        batch_size: int,
        accumulate: int = 1,
        eval_batch_size: int = 0,
        num_workers: int | str = 0,
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
        prefetch_factor: int | None = None,
        eval_crops: int = 1,
        crop_mode: str = "center",
        naflex: int | None = None,
        size_schedule: Sequence[int] | None = None,
        **source: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.decoder = decode.choose(decoder)
        self.source = sources.load(name, **source)
        self.classes = self.source.classes
        self.augment = dict(augment or {})
        sizes, options = size_schedule or [to_2tuple(img_size)], self.augment.get("transform", {})
        self._train_transforms = {size: train_transform(self.decoder, size, self.hparams, options) for size in sizes}
        kind = NaFlexBatchTransform if naflex else BatchTransform
        self.batch_transform = kind(
            len(self.classes), mean, std, self.augment.get("mixup", {}), self.augment.get("erasing", {}), seed
        )
        if self.batch_transform.mixup is not None and batch_size % 2:
            raise ValueError(f"mixup and cutmix pair images and need an even batch on each device, not {batch_size}")
        if naflex and (resident or eval_crops > 1):
            other = "data.resident=true keeps" if resident else "five crops are"
            raise ValueError(f"{other} images of one shape, and those of data.naflex={naflex} differ: leave one out")
        if resident and size_schedule and not isinstance(self._train_transforms[size_schedule[0]], TrainTransform):
            raise ValueError("data.size_schedule resizes crops: with data.resident=true it needs augment=light")
        self.faults = FaultLog(skip_limit)
        self.positions: Tensor | None = None
        self.resident: dict[str, ResidentDataset] = {}
        self.side_stream: SideStream | None = None  # on CUDA
        self._position = TrainPosition(self.source, seed, self.augment.get("num_repeats", 1))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def num_workers(self) -> int:
        """Loader processes of this rank."""
        return 0 if self.hparams.resident else choose_workers(self.hparams.num_workers, self._ranks_per_node())

    @property
    def batch_layout(self) -> BatchLayout:
        """How an optimizer step is divided among ranks and micro batches."""
        return BatchLayout(self.hparams.batch_size, self.hparams.accumulate, self._world()[0])

    @property
    def schedule(self) -> SizeSchedule | None:
        """The sizes of the training images, if they change; without a Trainer, of one epoch each."""
        if not self.hparams.size_schedule:
            return None
        sizes, (size, _) = tuple(self.hparams.size_schedule), to_2tuple(self.hparams.img_size)
        if self.trainer is None or self.trainer.fast_dev_run:  # which has one epoch, whatever the run has
            return SizeSchedule(sizes, size, len(sizes))
        return SizeSchedule(sizes, size, self.trainer.max_epochs)

    def facts(self) -> list[tuple[str, str]]:
        """Names and values for the summary that is printed before training."""
        facts = [("image sizes", str(self.schedule))] if self.schedule else []
        if patch := self.hparams.naflex:
            most = math.prod(to_2tuple(self.hparams.img_size)) // patch**2
            facts.append(("patches", f"at most {most} of {patch} px per image, which keeps its aspect ratio"))
        return facts

    def train_dataloader(self) -> DataLoader:
        layout = self.batch_layout
        if not len(self.source.train):
            held = " with data.val_split=1: set a smaller one" if self.hparams.get("val_split") else ""
            raise ValueError(
                f"data.name={self.hparams.name} has no training images here{held or ': it is for evaluation alone'}"
            )
        if (mixup := self.batch_transform.mixup) is not None:
            mixup.global_batch = layout.global_batch
            if mixup.off_epochs and self.trainer:
                mixup.epochs = self.trainer.max_epochs
        if self.schedule and self.trainer:
            # The Trainer asks for a loader in each epoch if their layouts differ.
            layout = self._layout(self._next_epoch())
            self.trainer.accumulate_grad_batches = layout.accumulate
        frozen = bool(self.trainer and self.trainer.overfit_batches)
        sampler = self._position.sampler(layout, self._next_epoch(), self._world()[1], self._ranks_per_node(), frozen)
        draw = self.batch_transform.draw
        # Resident images come as indices, which do not have the images' size.
        sized = (lambda keys, *_: draw(keys, *self._train_size(keys[0][0]))) if self.hparams.resident else draw
        return self._loader(self._train_set(), layout.batch_size, sampler, sized)

    def val_dataloader(self) -> DataLoader:
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader:
        """The test images.

        Raises:
            ValueError: the source has none, and accuracies of others would not be those of a test.
        """
        if self.source.test is None:
            raise ValueError(
                f"{self.hparams.name} has no test images: evaluate those for validation with Trainer.validate, or give "
                "it a test set"
            )
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader:
        """The test images, or those for validation if there are none."""
        return self._eval_loader("val" if self.source.test is None else "test")

    def _eval_loader(self, split: str) -> DataLoader:
        world, rank = self._world()
        dataset = self._eval_set(split)
        count = len(dataset)
        if count < world:
            raise ValueError(f"{count} {_NAMES[split]} images are not enough for {world} ranks")
        batch_size = self.hparams.eval_batch_size or self.hparams.batch_size
        if self.hparams.resident:
            dataset = self._keep(split, dataset.images, dataset.transform)
        return self._loader(dataset, batch_size, EvalSampler(count, world, rank))

    def val_images(self, indices: Sequence[int]) -> Batch:
        """A batch of these validation images, without those that cannot be read."""
        dataset = self._eval_set("val")
        return collate([dataset[SampleKey(index, 0, index)] for index in indices])

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.faults.note(batch.faults)
        self.positions = batch.positions
        if self.trainer.training:
            self._position.note(batch)
        return batch._replace(faults=())

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if device.type != "cuda":
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        self.side_stream = self.side_stream or SideStream(device)
        return self.side_stream(batch)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalise and augment on the device."""
        training = self.trainer.training
        if self.hparams.resident:
            testing = self.source.test is not None and (self.trainer.testing or self.trainer.predicting)
            split = "train" if training else "test" if testing else "val"
            size = self._train_size(self._position.epoch) if training else to_2tuple(self.hparams.img_size)
            batch = batch._replace(images=self.resident[split].take(batch.images, size))
        return self.batch_transform(batch, training, self.trainer.lightning_module.dtype)

    def state_dict(self) -> dict[str, Any]:
        """The position from which training continues, and what the order depends on besides the seed."""
        return self._position.state(self.trainer)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Note the position to resume at; Lightning calls this before it asks for loaders."""
        self._position.resume(state)

    @property
    def resumed_batches(self) -> int:
        """Micro batches of the first epoch that were done before this run resumed."""
        layout = self._layout(self._position.first_epoch)
        return self._position.first_step(layout) * layout.accumulate

    def _layout(self, epoch: int) -> BatchLayout:
        """How an optimizer step is divided in this epoch."""
        return self.schedule.layout(self.batch_layout, epoch) if self.schedule else self.batch_layout

    def _next_epoch(self) -> int:
        """The epoch that a loader is asked for; before the loops are restored, only the checkpoint knows it."""
        reloads = self.trainer and self.hparams.size_schedule
        return max(self._position.first_epoch, self.trainer.current_epoch if reloads else 0)

    def _train_set(self) -> Dataset:
        images, transforms = self.source.train, self._train_transforms
        if self.hparams.resident:
            return self._keep("train", images, next(iter(transforms.values())))
        settings = {"seed": self.hparams.seed, "replace": True, "skip_limit": self.hparams.skip_limit}
        datasets = {size: ImageDataset(images, transform, **settings) for size, transform in transforms.items()}
        return SizedDataset(self.schedule, datasets) if self.schedule else next(iter(datasets.values()))

    def _train_size(self, epoch: int) -> tuple[int, int]:
        """Height and width of the training images of an epoch."""
        return to_2tuple(self.schedule(epoch) if self.schedule else self.hparams.img_size)

    def _eval_set(self, split: str) -> ImageDataset:
        transform = eval_transform(self.decoder, self.hparams)
        return ImageDataset(self.source.splits[split], transform, self.hparams.seed, replace=False)

    def _keep(self, split: str, images: Images, transform: Transform) -> ResidentDataset:
        if split not in self.resident:
            self.resident[split] = ResidentDataset(images, self.decoder, transform, self.hparams.seed)
        return self.resident[split]

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _ranks_per_node(self) -> int:
        return self.trainer.world_size // self.trainer.num_nodes if self.trainer else 1

    def _loader(self, dataset: Dataset, batch_size: int, sampler: Sampler, draw: Draw | None = None) -> DataLoader:
        workers, ranks = self.num_workers, self._ranks_per_node()
        if self._world()[1] % ranks == 0:
            batch_bytes = batch_size * 3 * math.prod(to_2tuple(self.hparams.img_size))
            warn_of_shared_memory(workers, self.hparams.prefetch_factor or PREFETCH_FACTOR, batch_bytes, ranks)
        return DataLoader(
            dataset,
            batch_size=batch_size,  # by name, as Lightning needs it to rebuild the loader for predicting
            sampler=sampler,
            collate_fn=partial(collate, draw=draw),
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=self.hparams.prefetch_factor if workers else None,
            timeout=_WORKER_TIMEOUT if workers else 0,
            pin_memory=self.hparams.pin_memory,
            worker_init_fn=ignore_group_signals,
            # A loader draws a seed, which nothing here uses. Drawn from the global generator, it would change dropout.
            generator=torch.Generator(),
        )
