"""The LightningDataModule: one source, its transforms, and loaders that are exact on any number of ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningDataModule
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader

from fvit.data import sources
from fvit.data.sampler import ShuffledShare
from fvit.data.transforms import BatchTransform, Transformed


class ImageDataModule(LightningDataModule):
    """Images of one source, in batches.

    Training: each rank draws its share of a shuffle that is a function of (seed, epoch); incomplete batches are
    dropped, so that all ranks take equally many steps. Validation: every image exactly once over all ranks.

    Args:
        name: the source, a key of `fvit.data.SOURCES`.
        img_size: side of the images a model sees, in pixels.
        batch_size: images a rank and step.
        eval_batch_size: the same in validation; 0 means `batch_size`.
        num_workers: loader processes a rank.
        crop_pct: share of the shorter side that the centre crop of validation keeps.
        interpolation: ``bilinear``, ``bicubic``, ….
        mean, std: of the channels, for pixels in [0, 1].
        augment: ``transform``, ``erasing``, ``mixup`` (the arguments of timm's create_transform, RandomErasing and
            Mixup) and ``num_repeats`` (draws of one image an epoch, spread over ranks: repeated augmentation).
        seed: of the order.
        pin_memory: page-locked batches, for copies to a GPU.
        source: the source's own options.
    """

    def __init__(
        self,
        name: str,
        img_size: int,
        batch_size: int,
        eval_batch_size: int = 0,
        num_workers: int = 0,
        crop_pct: float = 0.875,
        interpolation: str = "bicubic",
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
        augment: Mapping[str, Any] | None = None,
        seed: int = 0,
        pin_memory: bool = False,
        **source: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.source = sources.load(name, **source)
        self.classes = self.source.classes
        self.augment = dict(augment or {})
        self.batch_transform = BatchTransform(
            len(self.classes), mean, std, self.augment.get("mixup", {}), self.augment.get("erasing", {})
        )
        if self.batch_transform.mixup is not None and batch_size % 2:
            raise ValueError(f"mixup and cutmix pair images and need an even batch on each device, not {batch_size}")

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.classes)

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches of equal size."""
        hp = self.hparams
        images = Transformed(
            self.source.train,
            hp.img_size,
            train=True,
            interpolation=hp.interpolation,
            mean=hp.mean,
            **self.augment.get("transform", {"no_aug": True}),
        )
        world, rank = self._world()
        sampler = ShuffledShare(len(images), world, rank, hp.seed, self.augment.get("num_repeats", 1))
        if len(sampler) < hp.batch_size:
            raise ValueError(
                f"{len(images)} training images over {world} ranks give no batch of {hp.batch_size}; "
                f"take global_batch_size={len(sampler) * world} or less"
            )
        return self._loader(images, hp.batch_size, sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        """Each image exactly once over all ranks, in order."""
        hp = self.hparams
        images = Transformed(
            self.source.val, hp.img_size, train=False, interpolation=hp.interpolation, crop_pct=hp.crop_pct
        )
        world, rank = self._world()
        if len(images) < world:
            raise ValueError(f"{len(images)} validation images do not give each of {world} ranks one")
        # A plain stride: no padding, no repeats. Ranks may hold one image more or less, which the metrics allow for.
        sampler = range(rank, len(images), world)
        return self._loader(images, hp.eval_batch_size or hp.batch_size, sampler, drop_last=False)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalise and augment on the device."""
        images, labels = batch
        return self.batch_transform(images, labels, self.trainer.training, self.trainer.lightning_module.dtype)

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, images: Transformed, batch_size: int, sampler: Any, drop_last: bool) -> DataLoader:
        return DataLoader(
            images,
            batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.hparams.num_workers,
            persistent_workers=self.hparams.num_workers > 0,
            pin_memory=self.hparams.pin_memory,
        )
