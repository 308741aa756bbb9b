import logging
from types import SimpleNamespace

import pytest

from fvit.data import ImageDataModule, workers
from fvit.data.workers import choose_workers, warn_of_shared_memory


@pytest.mark.parametrize(
    ("cores", "ranks", "found"), [(2, 1, 1), (1, 1, 1), (16, 1, 15), (64, 8, 7), (192, 8, 23), (192, 1, 32), (4, 8, 1)]
)
def test_automatic_workers_share_the_cores_with_the_ranks(monkeypatch, cores, ranks, found):
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    assert choose_workers("auto", ranks) == found
    assert choose_workers(5, ranks) == 5


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """Docker's 64 MiB of shared memory."""
    monkeypatch.setattr(workers, "_SHARED", tmp_path)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))


BATCH = 256 * 224 * 224 * 3


def test_shared_memory_that_is_too_small_is_warned_of_with_the_remedy(shared, caplog):
    warn_of_shared_memory(8, 2, BATCH, 1)
    for words in ("0.57 GiB", "has 0.062 GiB left", "--shm-size=2g", "data.num_workers", "data.prefetch_factor"):
        assert words in caplog.text


@pytest.mark.parametrize(("count", "batch"), [(0, BATCH), (1, 2**25)], ids=["no workers", "they fit"])
def test_shared_memory_that_is_large_enough_is_not(shared, caplog, count, batch):
    warn_of_shared_memory(count, 2, batch, 1)
    assert not caplog.text


def data_module(world=1, rank=0, num_nodes=1, img_size=64, **options):
    data = ImageDataModule("fake", img_size=img_size, batch_size=128, num_images=2048, **options)
    data.trainer = SimpleNamespace(world_size=world, global_rank=rank, num_nodes=num_nodes, overfit_batches=0)
    return data


def test_loaders_have_these_workers_and_their_prefetch_factor(monkeypatch):
    monkeypatch.setattr(workers, "usable_cores", lambda: 16)
    data = data_module(num_workers="auto", prefetch_factor=4, world=8, num_nodes=2)
    loaders = data.train_dataloader(), data.val_dataloader()
    assert [(loader.num_workers, loader.prefetch_factor) for loader in loaders] == [(3, 4)] * 2
    assert data.num_workers == 3
    plain = data_module(num_workers=2).train_dataloader()
    assert (plain.num_workers, plain.prefetch_factor) == (2, 2)
    assert data_module(num_workers=0, prefetch_factor=4).train_dataloader().prefetch_factor is None


@pytest.mark.parametrize(("rank", "warns"), [(0, True), (1, False), (2, True)])
def test_each_machine_is_warned_of_once(shared, caplog, rank, warns):
    """128 images of 64 px on 2 × 32 workers that prepare 2 batches each: 192 MiB."""
    with caplog.at_level(logging.WARNING):
        data_module(num_workers=32, world=4, rank=rank, num_nodes=2).train_dataloader()
        assert ("0.19 GiB" in caplog.text) == warns
        data_module(num_workers=32, world=4, rank=rank, num_nodes=2, img_size=[64, 128]).train_dataloader()
    assert ("0.38 GiB" in caplog.text) == warns
