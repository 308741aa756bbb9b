"""The size of training images by epoch, and how a step is divided when they are small."""

from types import SimpleNamespace

import pytest

from fvit.data import ImageDataModule
from fvit.data.sampler import BatchLayout
from fvit.data.size_schedule import SizeSchedule

from .resuming import AUGMENT


@pytest.mark.parametrize(
    ("sizes", "epochs", "expected"),
    [
        ((16, 32), 4, [16, 16, 32, 32]),
        ((16, 24, 32), 4, [16, 16, 24, 32]),
        ((16, 16, 16, 32), 4, [16, 16, 16, 32]),
        ((32,), 3, [32, 32, 32]),
    ],
)
def test_each_size_has_its_share_of_the_epochs(sizes, epochs, expected):
    schedule = SizeSchedule(sizes, 32, epochs)
    assert [schedule(epoch) for epoch in range(epochs)] == expected
    assert schedule(epochs + 5) == sizes[-1]  # a run that goes on


def test_more_sizes_than_epochs_are_refused():
    with pytest.raises(ValueError, match=r"size_schedule=\[8, 16, 32\] has 3 sizes for 2 epochs"):
        SizeSchedule((8, 16, 32), 32, 2)
    assert str(SizeSchedule((8, 16), 32, 3)) == "8 px for 2 epochs, 16 px for 1 epoch"


@pytest.mark.parametrize(("size", "batch", "accumulate"), [(32, 4, 6), (24, 4, 6), (22, 8, 3), (16, 12, 2), (8, 24, 1)])
def test_micro_batches_with_the_pixels_of_a_full_one_are_merged(size, batch, accumulate):
    full = BatchLayout(4, 6, world_size=2)
    layout = SizeSchedule((size,), 32, 1).layout(full, 0)
    assert layout == BatchLayout(batch, accumulate, 2)
    assert layout.global_batch == full.global_batch


def loader(epoch, resident=False, augment=AUGMENT, **options):
    """The training loader of an epoch in a run of four."""
    data = ImageDataModule(
        "fake",
        img_size=16,
        batch_size=4,
        accumulate=2,
        augment=augment,
        size_schedule=[8, 16],
        num_images=32,
        image_size=24,
        resident=resident,
        **options,
    )
    data.trainer = SimpleNamespace(
        world_size=1,
        global_rank=0,
        num_nodes=1,
        overfit_batches=0,
        max_epochs=4,
        current_epoch=epoch,
        training=True,
        fast_dev_run=0,
    )
    data.trainer.lightning_module = SimpleNamespace(dtype=None)
    return data, data.train_dataloader()


@pytest.mark.parametrize(("epoch", "size", "batch"), [(0, 8, 8), (1, 8, 8), (2, 16, 4), (3, 16, 4)])
def test_loader_and_trainer_agree_on_the_division_of_a_step(epoch, size, batch):
    data, batches = loader(epoch)
    found = list(batches)
    assert data.trainer.accumulate_grad_batches == 8 // batch
    assert [tuple(one.images.shape) for one in found] == [(batch, size, size, 3)] * (32 // batch)
    assert {int(e) for one in found for e in one.epochs} == {epoch}
    steps = [sorted(p for one in found[i : i + 8 // batch] for p in one.positions.tolist()) for i in (0, 8 // batch)]
    assert steps == [list(range(8)), list(range(8, 16))]


def test_resident_images_have_the_size_of_their_epoch():
    import torch

    light = {"transform": {"no_aug": False}}
    for epoch, size in ((0, 8), (3, 16)):
        data, batches = loader(epoch, resident=True, augment=light, interpolation="bilinear")
        data.trainer.lightning_module.dtype = torch.float32
        batch = data.on_before_batch_transfer(next(iter(batches)), 0)
        images, _ = data.on_after_batch_transfer(batch, 0)
        assert images.shape[-2:] == (size, size)


def test_resident_images_without_crops_are_refused():
    with pytest.raises(ValueError, match=r"data\.size_schedule resizes crops"):
        loader(0, resident=True, augment={})
