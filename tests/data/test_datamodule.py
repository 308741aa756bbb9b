import re
from collections import Counter
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from PIL import Image
from torch import nn

from fvit.data import SOURCES, ImageDataModule, Source

pytestmark = [
    # Lightning 2.6 on torch 2.14: its own use of a deprecated class.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # Lightning's advice on a machine of more than two cores.
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
]

quick = settings(deadline=None, derandomize=True, database=None, max_examples=60)


class Numbered(torch.utils.data.Dataset):
    """Images whose label is their index."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return Image.new("L", (4, 4), index % 256), index


def numbered(num_train, num_val):
    return Source(train=Numbered(num_train), val=Numbered(num_val), classes=["a", "b"])


@pytest.fixture(scope="module", autouse=True)
def numbered_source():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "numbered", numbered)
        yield


def data_module(num_train=40, num_val=10, batch_size=4, world=1, rank=0, **options):
    data = ImageDataModule(
        "numbered", img_size=4, batch_size=batch_size, num_train=num_train, num_val=num_val, **options
    )
    data.trainer = SimpleNamespace(
        world_size=world,
        global_rank=rank,
        overfit_batches=0,
        training=True,
        lightning_module=SimpleNamespace(dtype=torch.float32),
    )
    return data


def drawn(loader, epoch=0):
    """The indices of the images, batch by batch."""
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return [labels.tolist() for _, labels in loader]


def train_epoch(epoch=0, **options):
    """What each rank draws."""
    world = options.pop("world", 1)
    return [drawn(data_module(world=world, rank=rank, **options).train_dataloader(), epoch) for rank in range(world)]


def flat(batches):
    return list(chain.from_iterable(batches))


def test_without_a_trainer_there_is_one_rank():
    data = ImageDataModule("numbered", img_size=4, batch_size=4, num_train=8, num_val=6)
    assert sorted(flat(drawn(data.train_dataloader()))) == list(range(8))
    assert flat(drawn(data.val_dataloader())) == list(range(6))
    assert data.num_classes == 2


@quick
@given(
    num_val=st.integers(1, 50), world=st.integers(1, 4), batch_size=st.integers(1, 7), eval_batch_size=st.integers(0, 7)
)
def test_validation_sees_each_image_once(num_val, world, batch_size, eval_batch_size):
    ranks = []
    for rank in range(world):
        data = data_module(40, num_val, batch_size, world, rank, eval_batch_size=eval_batch_size)
        if num_val < world:
            with pytest.raises(ValueError, match=f"{num_val} validation images do not give each of {world} ranks one"):
                data.val_dataloader()
            return
        ranks.append(drawn(data.val_dataloader()))
    assert sorted(flat(flat(ranks))) == list(range(num_val))
    for batches in ranks:
        assert flat(batches) == sorted(flat(batches)), "in order"
        assert all(len(batch) == (eval_batch_size or batch_size) for batch in batches[:-1])
    counts = [len(flat(batches)) for batches in ranks]
    assert max(counts) - min(counts) <= 1


@quick
@given(
    num_train=st.integers(1, 50),
    world=st.integers(1, 4),
    batch_size=st.integers(1, 7),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 3),
)
def test_training_sees_no_image_twice_in_an_epoch(num_train, world, batch_size, epoch, seed):
    options = dict(num_train=num_train, world=world, batch_size=batch_size, seed=seed)
    if num_train // world < batch_size:
        with pytest.raises(ValueError, match=f"{num_train} training images over {world} ranks give no batch"):
            train_epoch(epoch, **options)
        return
    ranks = train_epoch(epoch, **options)
    assert [len(batches) for batches in ranks] == [num_train // world // batch_size] * world
    assert all(len(batch) == batch_size for batches in ranks for batch in batches)
    everything = flat(flat(ranks))
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(range(num_train))


@pytest.mark.parametrize("num_repeats", [1, 3])
def test_the_order_follows_the_epoch(num_repeats):
    augment = {"num_repeats": num_repeats}
    epochs = [train_epoch(epoch, world=2, augment=augment) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert [train_epoch(epoch, world=2, augment=augment) for epoch in range(3)] == epochs


@pytest.mark.parametrize("num_repeats", [1, 3])
def test_the_order_follows_the_seed(num_repeats):
    first, again, other = (train_epoch(seed=seed, augment={"num_repeats": num_repeats}) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_is_no_other_with_workers(seed):
    torch.manual_seed(seed)
    per_workers = [train_epoch(epoch=1, num_workers=num_workers) for num_workers in (0, 1, 2)]
    assert per_workers[0] == per_workers[1] == per_workers[2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_change_no_validation_image(num_workers):
    data = data_module(num_val=10, num_workers=num_workers)
    images = torch.cat([images for images, _ in data.val_dataloader()])
    assert images[:, 0, 0, 0].tolist() == list(range(10))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("num_train", [30, 300])
def test_repeated_augmentation_draws_an_image_three_times(num_train, world):
    ranks = train_epoch(num_train=num_train, world=world, batch_size=1, augment={"num_repeats": 3})
    assert len({len(batches) for batches in ranks}) == 1
    count = Counter(flat(flat(ranks)))
    # The last image drawn may be cut off.
    assert sorted(count.values())[1:] == [3] * (len(count) - 1)
    # timm draws as many images an epoch as there are, rounded: a third of them, three times each.
    assert len(count) == pytest.approx(num_train / 3, rel=0.2)


def test_repeats_of_an_image_lie_on_different_ranks():
    ranks = train_epoch(num_train=30, world=3, batch_size=1, augment={"num_repeats": 3})
    assert len({tuple(flat(batches)) for batches in ranks}) == 1
    assert max(Counter(flat(ranks[0])).values()) == 1


def test_mixing_needs_an_even_batch():
    for augment in ({"mixup": {"mixup_alpha": 0.8}}, {"mixup": {"cutmix_alpha": 1.0}}):
        data_module(batch_size=4, augment=augment)
        with pytest.raises(
            ValueError, match="mixup and cutmix pair images and need an even batch on each device, not 5"
        ):
            data_module(batch_size=5, augment=augment)
    data_module(batch_size=5, augment={"mixup": {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}})


@pytest.mark.parametrize("num_repeats", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_batch_larger_than_the_data_names_one_that_fits(world, num_repeats):
    options = dict(num_train=10, augment={"num_repeats": num_repeats}, world=world)
    with pytest.raises(ValueError, match="take global_batch_size=") as caught:
        train_epoch(batch_size=11, **options)
    advised = int(re.search(r"global_batch_size=(\d+) or less", str(caught.value))[1])
    assert all(len(batches) == 1 for batches in train_epoch(batch_size=advised // world, **options))


class Watcher(LightningModule):
    """Trains nothing and notes which images it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained, self.validated = [], []

    def on_train_epoch_start(self):
        self.trained.append([])

    def on_validation_epoch_start(self):
        self.validated.append([])

    def training_step(self, batch, batch_idx):
        images, labels = batch
        assert images.dtype == torch.float32, "normalised"
        self.trained[-1].append(labels.tolist())
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.validated[-1].append(batch[1].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, **options):
    watcher = Watcher()
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = Trainer(
        accelerator="cpu", use_distributed_sampler=False, num_sanity_val_steps=0, max_epochs=3, **quiet, **options
    )
    trainer.fit(watcher, datamodule=data)
    return watcher


@pytest.mark.parametrize("num_workers", [0, 1])
def test_lightning_draws_another_order_each_epoch(num_workers):
    options = dict(num_train=21, num_val=10, batch_size=4, num_workers=num_workers, seed=5)
    watcher = fit(ImageDataModule("numbered", img_size=4, **options))
    assert watcher.trained == [train_epoch(epoch, **options)[0] for epoch in range(3)]
    assert watcher.validated == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]] * 3


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled")
def test_overfitting_shows_the_same_batch_each_epoch():
    data = ImageDataModule("numbered", img_size=4, batch_size=4, num_train=20, num_val=20)
    watcher = fit(data, overfit_batches=1)
    assert watcher.trained == [[[0, 1, 2, 3]]] * 3
    assert watcher.validated == [[[0, 1, 2, 3]]] * 3


def test_hyperparameters_build_the_same_data_again():
    data = data_module(num_train=12, batch_size=2, seed=7, augment={"num_repeats": 3})
    again = ImageDataModule(**data.hparams)
    assert drawn(again.train_dataloader()) == drawn(data.train_dataloader())
    assert flat(drawn(again.val_dataloader())) == flat(drawn(data.val_dataloader()))
