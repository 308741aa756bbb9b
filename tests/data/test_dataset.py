import signal
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fvit.data import faults
from fvit.data.dataset import ImageDataset, Sample, collate, ignore_group_signals
from fvit.data.faults import Fault
from fvit.data.formats.decode import Decoder, choose
from fvit.data.images import BadImage, DataError, Images
from fvit.data.sampler import BatchLayout, Shuffle, TrainSampler
from fvit.data.seeding import SampleKey
from fvit.data.sources.builtin import fake
from fvit.data.transforms.image import EvalTransform, TrainTransform
from tests.data.pictures import jpeg

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


class Broken(Images):
    """Grey images whose level and label are their index.

    `failing` gives, by index, an error that every read raises, or a list of errors for the first reads.
    """

    def __init__(self, size=20, failing=None, locatable=True):
        self.labels = np.arange(size, dtype=np.int32)
        self.failing, self.locatable, self.reads = failing or {}, locatable, []

    def read(self, index):
        self.reads.append(index)
        error = self.failing.get(index)
        if isinstance(error, list):
            error = error.pop(0) if error else None
        if isinstance(error, bytes):
            return error
        if error is not None:
            raise error
        return np.full((8, 8), index, dtype=np.uint8)

    def locate(self, index):
        if not self.locatable:
            raise DataError("the index is damaged as well")
        return f"train.tar: {index}.jpg"


def dataset(images, replace=True):
    return ImageDataset(images, EvalTransform(Decoder("pil"), 8, 1.0), seed=0, replace=replace)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Records pauses instead of sleeping."""
    slept = []
    monkeypatch.setattr(faults, "time", SimpleNamespace(sleep=slept.append))
    return slept


# Samples


@pytest.mark.parametrize("replace", [True, False])
def test_good_image(replace):
    sample = dataset(Broken(), replace)[SampleKey(7, 2, 3)]
    assert (sample.pixels.dtype, sample.pixels.shape) == (torch.uint8, (8, 8, 3))
    assert sample.pixels.unique().tolist() == [7]
    assert (sample.label, sample.key, sample.faults) == (7, (7, 2, 3), ())


@pytest.mark.parametrize("error", [BadImage("empty"), jpeg()[:900], b"", OSError("input/output error")], ids=str)
def test_training_replaces_a_damaged_image_by_the_next_one(error):
    sample = dataset(Broken(failing={7: error}))[SampleKey(7, 2, 3)]
    assert (sample.label, sample.pixels.unique().tolist()) == (8, [8]), "pixels and label of one image"
    assert sample.key == (7, 2, 3), "the key stays the same"
    [fault] = sample.faults
    assert (fault.where, fault.fatal) == ("train.tar: 7.jpg", False)
    assert len(fault.reason) > 4


def test_replacement_wraps_around_and_skips_several():
    sample = dataset(Broken(20, {i: BadImage("empty") for i in (18, 19, 0)}))[SampleKey(18, 0, 0)]
    assert sample.label == 1
    assert sample.faults == tuple(Fault(f"train.tar: {i}.jpg", "empty") for i in (18, 19, 0))


def test_replacement_is_augmented_by_the_original_key():
    images = Broken(20, {7: BadImage("empty")})
    images.read = lambda index, read=images.read: read(index) + np.arange(64, dtype=np.uint8).reshape(8, 8)
    train = ImageDataset(images, TrainTransform(Decoder("pil"), 8), seed=0, replace=True)
    assert torch.equal(train[SampleKey(7, 2, 3)].pixels, train[SampleKey(8, 2, 3)].pixels)
    assert not torch.equal(train[SampleKey(7, 2, 4)].pixels, train[SampleKey(8, 2, 3)].pixels)


def test_validation_leaves_a_damaged_image_out():
    images = Broken(failing={7: BadImage("empty")})
    sample = dataset(images, replace=False)[SampleKey(7, 0, 7)]
    assert sample == (None, -1, (7, 0, 7), (Fault("train.tar: 7.jpg", "empty"),))
    assert images.reads == [7]


def test_reason_does_not_repeat_the_location():
    sample = dataset(Broken(failing={7: BadImage("train.tar: 7.jpg: empty")}))[SampleKey(7, 0, 0)]
    assert sample.faults == (Fault("train.tar: 7.jpg", "empty"),)


@pytest.mark.parametrize("failures", [1, 2])
def test_failed_read_is_retried(failures, pauses):
    images = Broken(failing={7: [OSError("stale handle")] * failures})
    sample = dataset(images)[SampleKey(7, 0, 0)]
    assert (sample.label, sample.faults) == (7, ())
    assert images.reads == [7] * (failures + 1)
    assert len(pauses) == failures


def test_persistent_read_error_is_a_fault():
    images = Broken(failing={7: OSError("stale handle")})
    sample = dataset(images)[SampleKey(7, 0, 0)]
    assert sample.faults == (Fault("train.tar: 7.jpg", "stale handle"),)
    assert images.reads == [7, 7, 7, 8]


def test_damaged_image_is_read_once():
    images = Broken(failing={7: BadImage("empty")})
    assert dataset(images)[SampleKey(7, 0, 0)].label == 8
    assert images.reads == [7, 8]


@pytest.mark.parametrize("replace", [True, False])
def test_missing_shard_is_fatal(replace):
    images = Broken(failing={7: DataError("train.tar is missing")})
    sample = dataset(images, replace)[SampleKey(7, 0, 0)]
    assert sample == (None, -1, (7, 0, 0), (Fault("train.tar: 7.jpg", "train.tar is missing", fatal=True),))
    assert images.reads == [7], "its neighbours are in the same shard"


@pytest.mark.parametrize("size", [3, 40])
def test_too_many_damaged_images_in_a_row_are_fatal(size):
    sample = dataset(Broken(size, {i: BadImage("empty") for i in range(size)}))[SampleKey(2, 0, 0)]
    assert sample.pixels is None
    assert sample.faults[-1].fatal
    assert "as are the 15 images before it" in sample.faults[-1].reason
    assert not any(fault.fatal for fault in sample.faults[:-1])


def test_fault_without_a_location():
    sample = dataset(Broken(failing={7: BadImage("empty")}, locatable=False))[SampleKey(7, 0, 0)]
    assert sample.faults == (Fault("image 7", "empty"),)


# Batches


def test_batch_of_good_images():
    batch = collate([dataset(Broken())[SampleKey(index, 5, position)] for position, index in enumerate((7, 3, 9))])
    assert (batch.images.dtype, batch.images.shape) == (torch.uint8, (3, 8, 8, 3))
    assert batch.images[:, 0, 0, 0].tolist() == batch.labels.tolist() == [7, 3, 9]
    assert (batch.epochs.tolist(), batch.positions.tolist()) == ([5, 5, 5], [0, 1, 2])
    assert batch.labels.dtype == batch.epochs.dtype == batch.positions.dtype == torch.int64
    assert batch.faults == ()


def test_batch_leaves_out_and_reports_damaged_images():
    images = dataset(Broken(failing={3: BadImage("empty")}), replace=False)
    batch = collate([images[SampleKey(index, 0, index)] for index in (2, 3, 4)])
    assert batch.labels.tolist() == batch.positions.tolist() == [2, 4]
    assert batch.images[:, 0, 0, 0].tolist() == [2, 4]
    assert batch.faults == (Fault("train.tar: 3.jpg", "empty"),)


def test_empty_batch():
    fault = Fault("train.tar: 3.jpg", "empty")
    batch = collate([Sample(None, -1, SampleKey(3, 0, 3), (fault,))] * 2)
    assert len(batch.images) == len(batch.labels) == len(batch.epochs) == len(batch.positions) == 0
    assert (batch.images.dtype, batch.images.ndim, batch.labels.dtype) == (torch.uint8, 4, torch.int64)
    assert batch.faults == (fault, fault)


# Workers


def batches(num_workers, decoder="auto", **options):
    """An epoch of noise, augmented."""
    transform = TrainTransform(choose(decoder), 16, auto_augment=RAND_AUGMENT)
    images = ImageDataset(fake(num_images=24, image_size=20).train, transform, seed=3, replace=True)
    sampler = TrainSampler(Shuffle(24), BatchLayout(4), epoch=1)
    return list(DataLoader(images, 4, sampler=sampler, collate_fn=collate, num_workers=num_workers, **options))


def assert_same(found, expected):
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on machines of fewer cores
def test_workers_change_nothing():
    expected = batches(0)
    for num_workers in (1, 2):
        torch.manual_seed(num_workers)
        assert_same(batches(num_workers), expected)


@pytest.mark.slow
def test_spawned_workers_change_nothing():
    """Each with its own decompressor."""
    assert_same(batches(1, multiprocessing_context="spawn"), batches(0))


def test_faults_are_reported_from_workers():
    images = dataset(Broken(8, {3: BadImage("empty")}), replace=False)
    keys = [SampleKey(index, 0, index) for index in range(8)]
    found = list(DataLoader(images, 4, sampler=keys, collate_fn=collate, num_workers=2))
    assert [batch.labels.tolist() for batch in found] == [[0, 1, 2], [4, 5, 6, 7]]
    assert [batch.faults for batch in found] == [(Fault("train.tar: 3.jpg", "empty"),), ()]


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not report who sent a signal")
def test_worker_ignores_signals_except_from_its_parent():
    images = dataset(Broken(40), replace=False)
    loader = DataLoader(
        images,
        sampler=[SampleKey(index, 0, index) for index in range(40)],
        collate_fn=collate,
        num_workers=1,
        worker_init_fn=ignore_group_signals,
    )
    found = iter(loader)
    next(found)
    [worker] = found._workers
    for name in ("TERM", "USR1"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert sum(1 for _ in found) == 39  # more than were prefetched
    assert worker.is_alive() or worker.exitcode == 0
    found = iter(loader)
    next(found)
    [worker] = found._workers
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
