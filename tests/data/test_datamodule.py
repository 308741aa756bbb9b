import re
from collections import Counter
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn

from fvit.data import SOURCES, ImageDataModule, Source
from fvit.data.images import Pixels

AUGMENTED = {"transform": {"no_aug": False, "auto_augment": "rand-m9-mstd0.5-inc1"}}


def numbered(num_train, num_val):
    """Images whose grey level and label are their index."""
    splits = [np.tile(np.arange(size, dtype=np.uint8)[:, None, None], (1, 4, 4)) for size in (num_train, num_val)]
    classes = [str(label) for label in range(max(num_train, num_val))]
    return Source(*(Pixels(pixels, np.arange(len(pixels))) for pixels in splits), classes=classes)


@pytest.fixture(scope="module", autouse=True)
def numbered_source():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "numbered", numbered)
        yield


def on_rank(data, world, rank):
    data.trainer = SimpleNamespace(world_size=world, global_rank=rank, num_nodes=1, overfit_batches=0)
    return data


def data_module(num_train=40, num_val=10, batch_size=4, world=1, rank=0, **options):
    sizes = {"num_train": num_train, "num_val": num_val}
    return on_rank(ImageDataModule("numbered", img_size=4, batch_size=batch_size, **sizes, **options), world, rank)


def batches_of(loader):
    """All batches; ends the workers, which takes the garbage collector seconds."""
    batches = list(loader)
    if loader.num_workers:
        loader._iterator._shutdown_workers()
    return batches


def drawn(loader, epoch=0):
    """The indices of the images in each batch, on which pixels and labels must agree."""
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    batches = batches_of(loader)
    for batch in batches:
        assert torch.equal(batch.images, batch.labels.view(-1, 1, 1, 1).expand_as(batch.images))
        assert set(batch.epochs.tolist()) <= {epoch}
    return [batch.labels.tolist() for batch in batches]


def train_epoch(epoch=0, world=1, **options):
    """The batches of each rank."""
    return [drawn(data_module(world=world, rank=rank, **options).train_dataloader(), epoch) for rank in range(world)]


def flat(batches):
    return list(chain.from_iterable(batches))


@pytest.mark.parametrize("world", [1, 3])
def test_each_image_once_in_equal_batches(world):
    ranks = train_epoch(num_train=43, world=world, batch_size=2, accumulate=2)
    assert [[len(batch) for batch in batches] for batches in ranks] == [[2] * (43 // (4 * world) * 2)] * world
    images = flat(flat(ranks))
    assert len(set(images)) == len(images) == 43 // (4 * world) * 4 * world
    for size in (1, 0):
        loaders = [data_module(world=world, rank=r, eval_batch_size=size).val_dataloader() for r in range(world)]
        ranks = [drawn(loader) for loader in loaders]
        assert flat(flat(ranks)) == list(range(10))
        assert {len(batch) for batches in ranks for batch in batches[:-1]} <= {size or 4}


def test_one_rank_without_a_trainer():
    data = ImageDataModule("numbered", img_size=4, batch_size=4, num_train=8, num_val=6)
    assert sorted(flat(drawn(data.train_dataloader()))) == list(range(8))
    assert flat(drawn(data.val_dataloader())) == list(range(6))
    assert data.num_classes == 8


@pytest.mark.parametrize("num_repeats", [1, 3])
def test_order_is_a_function_of_seed_and_epoch(num_repeats):
    def epochs():
        options = dict(world=2, augment={"num_repeats": num_repeats})
        return [train_epoch(epoch, seed=seed, **options) for epoch in range(3) for seed in (0, 1)]

    first = epochs()
    torch.manual_seed(5)
    assert epochs() == first
    assert all(one != other for i, one in enumerate(first) for other in first[:i])
    for ranks in first:
        assert sorted(Counter(flat(flat(ranks))).values())[1:] == [num_repeats] * (-(-40 // num_repeats) - 1)


@pytest.mark.parametrize("world", [1, 2])
def test_workers_change_neither_order_nor_pixels(world):
    def epoch(num_workers):
        options = dict(num_images=24, augment=AUGMENTED, seed=2, num_workers=num_workers)
        data = on_rank(ImageDataModule("fake", img_size=16, batch_size=4, **options), world, world - 1)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(1)
        return batches_of(loader) + batches_of(data.val_dataloader())

    expected = epoch(0)
    for num_workers in (1, 2):
        torch.manual_seed(num_workers)
        for found, batch in zip(epoch(num_workers), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found[:4], batch[:4], strict=True))


def test_hyperparameters_rebuild_the_same_data():
    data = data_module(num_train=12, batch_size=2, seed=7, augment={"num_repeats": 3})
    again = ImageDataModule(**data.hparams)
    assert drawn(again.train_dataloader()) == drawn(data.train_dataloader())
    assert flat(drawn(again.val_dataloader())) == flat(drawn(data.val_dataloader()))


# Errors


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0), (0, 1.0)])
def test_mixup_needs_an_even_batch(mixup, cutmix):
    options = dict(mixup_alpha=mixup, cutmix_alpha=cutmix, prob=1, switch_prob=0.5, mode="batch")
    data_module(batch_size=4, augment={"mixup": options})
    with pytest.raises(ValueError, match="mixup and cutmix pair images and need an even batch on each device, not 5"):
        data_module(batch_size=5, augment={"mixup": options})
    data_module(batch_size=5, augment={"mixup": {**options, "mixup_alpha": 0, "cutmix_alpha": 0}})


@pytest.mark.parametrize("world", [1, 3])
def test_batch_larger_than_the_data_suggests_one_that_fits(world):
    with pytest.raises(ValueError, match=f"10 training images are fewer than one batch of {11 * world}") as caught:
        train_epoch(num_train=10, batch_size=11, world=world)
    advised = int(re.search(r"global_batch_size=(\d+) or less", str(caught.value))[1])
    assert all(len(batches) == 1 for batches in train_epoch(num_train=10, batch_size=advised // world, world=world))


def test_fewer_validation_images_than_ranks():
    with pytest.raises(ValueError, match="2 validation images are not enough for 3 ranks"):
        data_module(num_val=2, world=3).val_dataloader()


# With Lightning


class Watcher(LightningModule):
    """Records what it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained, self.validated, self.pixels = [], [], []

    def on_train_epoch_start(self):
        self.trained.append([])
        self.pixels.append([])

    def on_validation_epoch_start(self):
        self.validated.append([])

    def training_step(self, batch, batch_idx):
        assert batch[0].dtype == torch.float32, "normalised"
        self.pixels[-1].append(batch[0])
        self.trained[-1].append(batch[1].tolist())
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.validated[-1].append(batch[1].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, **options):
    watcher = Watcher()
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    options.update(accelerator="cpu", use_distributed_sampler=False, num_sanity_val_steps=0, max_epochs=3)
    Trainer(**quiet, **options).fit(watcher, datamodule=data)
    return watcher


@pytest.mark.parametrize("num_workers", [0, 1])
def test_lightning_sees_another_order_in_each_epoch(num_workers):
    options = dict(num_train=21, num_val=10, batch_size=4, num_workers=num_workers, seed=5)
    watcher = fit(ImageDataModule("numbered", img_size=4, **options))
    assert watcher.trained == [train_epoch(epoch, **options)[0] for epoch in range(3)]
    assert watcher.validated == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]] * 3


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_overfitting_sees_the_same_pixels_in_each_epoch(num_workers):
    """Even augmented ones, so that a model can memorise them."""
    options = dict(img_size=16, batch_size=4, num_images=20, augment=AUGMENTED, num_workers=num_workers)
    watcher = fit(ImageDataModule("fake", **options), overfit_batches=2)
    first = watcher.pixels[0]
    assert len(first) == 2
    assert not torch.equal(*first)
    for epoch in watcher.pixels[1:]:
        assert all(torch.equal(one, other) for one, other in zip(epoch, first, strict=True))
    assert watcher.trained == watcher.trained[:1] * 3
    assert watcher.validated == watcher.validated[:1] * 3
