import re
from collections import Counter
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from torch import nn

from fvit.data import SOURCES, ImageDataModule, Source
from fvit.data.images import Pixels

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on machines of fewer cores

quick = settings(deadline=None, derandomize=True, database=None, max_examples=40)
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


def data_module(num_train=40, num_val=10, batch_size=4, world=1, rank=0, **options):
    data = ImageDataModule(
        "numbered", img_size=4, batch_size=batch_size, num_train=num_train, num_val=num_val, **options
    )
    data.trainer = SimpleNamespace(world_size=world, global_rank=rank, num_nodes=1, overfit_batches=0)
    return data


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


def train_epoch(epoch=0, **options):
    """The batches of each rank."""
    world = options.pop("world", 1)
    return [drawn(data_module(world=world, rank=rank, **options).train_dataloader(), epoch) for rank in range(world)]


def flat(batches):
    return list(chain.from_iterable(batches))


def test_one_rank_without_a_trainer():
    data = ImageDataModule("numbered", img_size=4, batch_size=4, num_train=8, num_val=6)
    assert sorted(flat(drawn(data.train_dataloader()))) == list(range(8))
    assert flat(drawn(data.val_dataloader())) == list(range(6))
    assert data.num_classes == 8


# Exact on any number of ranks


def assert_training_is_exact(num_train, world, batch_size, accumulate, epoch=0, **options):
    """Each image at most once, equal batches on all ranks, and less than one step left out."""
    options.update(num_train=num_train, world=world, batch_size=batch_size, accumulate=accumulate)
    step = batch_size * accumulate * world
    if num_train < step:
        with pytest.raises(ValueError, match=f"{num_train} training images are fewer than one batch of {step}"):
            train_epoch(epoch, **options)
        return
    ranks = train_epoch(epoch, **options)
    assert [len(batches) for batches in ranks] == [num_train // step * accumulate] * world
    assert all(len(batch) == batch_size for batches in ranks for batch in batches)
    everything = flat(flat(ranks))
    assert len(set(everything)) == len(everything) == num_train - num_train % step
    assert set(everything) <= set(range(num_train))


def assert_validation_is_exact(num_val, world, batch_size, eval_batch_size, **options):
    """Each image once, in order, with shares that differ by at most one image."""
    ranks = []
    for rank in range(world):
        data = data_module(40, num_val, batch_size, world, rank, eval_batch_size=eval_batch_size, **options)
        if num_val < world:
            with pytest.raises(ValueError, match=f"{num_val} validation images are not enough for {world} ranks"):
                data.val_dataloader()
            return
        ranks.append(drawn(data.val_dataloader()))
    assert flat(flat(ranks)) == list(range(num_val))
    for batches in ranks:
        assert all(len(batch) == (eval_batch_size or batch_size) for batch in batches[:-1])
    counts = [len(flat(batches)) for batches in ranks]
    assert max(counts) - min(counts) <= 1


TRAINING = dict(
    num_train=st.integers(1, 60),
    world=st.integers(1, 4),
    batch_size=st.integers(1, 7),
    accumulate=st.integers(1, 3),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 3),
)
VALIDATION = dict(
    num_val=st.integers(1, 50), world=st.integers(1, 4), batch_size=st.integers(1, 7), eval_batch_size=st.integers(0, 7)
)


@quick
@given(**TRAINING)
def test_training_is_exact(**options):
    assert_training_is_exact(**options)


@quick
@given(**VALIDATION)
def test_validation_is_exact(**options):
    assert_validation_is_exact(**options)


# Order


@pytest.mark.parametrize("num_repeats", [1, 3])
def test_order_is_a_function_of_seed_and_epoch(num_repeats):
    def epochs():
        options = dict(world=2, augment={"num_repeats": num_repeats})
        return [train_epoch(epoch, seed=seed, **options) for epoch in range(3) for seed in (0, 1)]

    first = epochs()
    torch.manual_seed(5)
    assert epochs() == first
    assert all(one != other for i, one in enumerate(first) for other in first[:i])


@pytest.mark.parametrize("world", [1, 2])
def test_workers_change_neither_order_nor_pixels(world):
    def epoch(num_workers):
        data = ImageDataModule(
            "fake", img_size=16, batch_size=4, num_images=24, augment=AUGMENTED, seed=2, num_workers=num_workers
        )
        data.trainer = SimpleNamespace(world_size=world, global_rank=world - 1, num_nodes=1, overfit_batches=0)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(1)
        return batches_of(loader) + batches_of(data.val_dataloader())

    expected = epoch(0)
    for num_workers in (1, 2):
        torch.manual_seed(num_workers)
        for found, batch in zip(epoch(num_workers), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found[:4], batch[:4], strict=True))


def test_step_has_the_same_images_on_any_number_of_ranks():
    def steps(world, batch_size, accumulate):
        ranks = train_epoch(num_train=35, world=world, batch_size=batch_size, accumulate=accumulate)
        starts = range(0, len(ranks[0]), accumulate)
        return [sorted(flat(flat(batches[i : i + accumulate] for batches in ranks))) for i in starts]

    expected = steps(1, 8, 1)
    assert len(expected) == 4
    assert all(steps(*layout) == expected for layout in ((1, 4, 2), (2, 4, 1), (2, 2, 2), (4, 2, 1), (4, 1, 2)))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("num_train", [30, 250])
def test_repeated_augmentation(num_train, world):
    ranks = train_epoch(num_train=num_train, world=world, batch_size=1, augment={"num_repeats": 3})
    count = Counter(flat(flat(ranks)))
    # The last image may have fewer positions.
    assert sorted(count.values())[1:] == [3] * (len(count) - 1)
    assert len(count) == pytest.approx(num_train / 3, abs=2)


# Errors


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0), (0, 1.0)])
def test_mixup_needs_an_even_batch(mixup, cutmix):
    options = dict(mixup_alpha=mixup, cutmix_alpha=cutmix, prob=1, switch_prob=0.5, mode="batch")
    data_module(batch_size=4, augment={"mixup": options})
    with pytest.raises(ValueError, match="mixup and cutmix pair images and need an even batch on each device, not 5"):
        data_module(batch_size=5, augment={"mixup": options})
    data_module(batch_size=5, augment={"mixup": {**options, "mixup_alpha": 0, "cutmix_alpha": 0}})


@pytest.mark.parametrize("world", [1, 2, 3])
def test_batch_larger_than_the_data_suggests_one_that_fits(world):
    with pytest.raises(ValueError, match=f"10 training images are fewer than one batch of {11 * world}") as caught:
        train_epoch(num_train=10, batch_size=11, world=world)
    advised = int(re.search(r"global_batch_size=(\d+) or less", str(caught.value))[1])
    assert all(len(batches) == 1 for batches in train_epoch(num_train=10, batch_size=advised // world, world=world))


def test_hyperparameters_rebuild_the_same_data():
    data = data_module(num_train=12, batch_size=2, seed=7, augment={"num_repeats": 3})
    again = ImageDataModule(**data.hparams)
    assert drawn(again.train_dataloader()) == drawn(data.train_dataloader())
    assert flat(drawn(again.val_dataloader())) == flat(drawn(data.val_dataloader()))


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
    trainer = Trainer(**quiet, **options)
    trainer.fit(watcher, datamodule=data)
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
