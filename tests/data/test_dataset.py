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


EMPTY = Fault("train.tar: 7.jpg", "empty")


# Samples


@pytest.mark.parametrize("replace", [True, False])
def test_good_image(replace):
    sample = dataset(Broken(), replace)[SampleKey(7, 2, 3)]
    assert (sample.pixels.dtype, sample.pixels.shape) == (torch.uint8, (8, 8, 3))
    assert sample.pixels.unique().tolist() == [7]
    assert (sample.label, sample.key, sample.faults) == (7, (7, 2, 3), ())


@pytest.mark.parametrize("error", [BadImage("empty"), jpeg()[:900], b"", OSError("input/output error")], ids=str)
def test_training_replaces_a_damaged_image_by_the_next_one(error):
    images = Broken(failing={7: error})
    sample = dataset(images)[SampleKey(7, 2, 3)]
    assert (sample.label, sample.pixels.unique().tolist()) == (8, [8]), "pixels and label of one image"
    assert sample.key == (7, 2, 3)
    assert images.reads == [7] * (3 if isinstance(error, OSError) else 1) + [8], "only system errors are retried"
    [fault] = sample.faults
    assert (fault.where, fault.fatal) == ("train.tar: 7.jpg", False)
    assert len(fault.reason) > 4


@pytest.mark.parametrize("failures", [1, 2])
def test_failed_read_is_retried(failures, pauses):
    images = Broken(failing={7: [OSError("stale handle")] * failures})
    sample = dataset(images)[SampleKey(7, 0, 0)]
    assert (sample.label, sample.faults) == (7, ())
    assert pauses == [0.1, 0.2][:failures]


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
    images = Broken(failing={7: BadImage("train.tar: 7.jpg: empty")})
    sample = dataset(images, replace=False)[SampleKey(7, 0, 7)]
    assert sample == (None, -1, (7, 0, 7), (EMPTY,))
    assert images.reads == [7]


@pytest.mark.parametrize("replace", [True, False])
def test_missing_shard_is_fatal(replace):
    images = Broken(failing={7: DataError("train.tar is missing")})
    sample = dataset(images, replace)[SampleKey(7, 0, 0)]
    assert sample == (None, -1, (7, 0, 0), (Fault("train.tar: 7.jpg", "train.tar is missing", fatal=True),))
    assert images.reads == [7], "its neighbours are in the same shard"


def test_as_many_damaged_images_in_a_row_are_skipped_as_the_limit_allows():
    bad = {i: BadImage("empty") for i in range(30)}
    for limit, label in ((30, 30), (29, -1)):
        images = dataset(Broken(40, bad))
        images.skip_limit = limit
        sample = images[SampleKey(0, 0, 0)]
        assert sample.label == label
        assert [fault.where for fault in sample.faults] == [f"train.tar: {i}.jpg" for i in range(30)]
        assert not any(fault.fatal for fault in sample.faults), "the trainer counts them"


def test_no_image_that_can_be_read_is_fatal():
    sample = dataset(Broken(3, {i: BadImage("empty") for i in range(3)}))[SampleKey(2, 0, 0)]
    assert sample.pixels is None
    assert sample.faults[-1] == ("train.tar: 1.jpg", "empty; none of the 3 training images can be read", True)
    assert not any(fault.fatal for fault in sample.faults[:-1])


def test_fault_without_a_location():
    sample = dataset(Broken(failing={7: BadImage("empty")}, locatable=False))[SampleKey(7, 0, 0)]
    assert sample.faults == (Fault("image 7", "empty"),)


# Batches


def test_batch_leaves_out_and_reports_damaged_images():
    images = dataset(Broken(failing={7: BadImage("empty")}), replace=False)
    batch = collate([images[SampleKey(index, 5, position)] for position, index in enumerate((8, 7, 3))])
    assert (batch.images.dtype, batch.images.shape) == (torch.uint8, (2, 8, 8, 3))
    assert batch.images[:, 0, 0, 0].tolist() == batch.labels.tolist() == [8, 3]
    assert (batch.epochs.tolist(), batch.positions.tolist()) == ([5, 5], [0, 2])
    assert batch.labels.dtype == batch.epochs.dtype == batch.positions.dtype == torch.int64
    assert batch.faults == (EMPTY,)


def test_empty_batch():
    batch = collate([Sample(None, -1, SampleKey(3, 0, 3), (EMPTY,))] * 2)
    assert len(batch.images) == len(batch.labels) == len(batch.epochs) == len(batch.positions) == 0
    assert (batch.images.dtype, batch.images.ndim, batch.labels.dtype) == (torch.uint8, 4, torch.int64)
    assert batch.faults == (EMPTY, EMPTY)


# Workers


@pytest.mark.slow
def test_spawned_workers_change_nothing():
    def batches(**options):
        transform = TrainTransform(choose(), 16, auto_augment="rand-m9-mstd0.5-inc1")
        images = ImageDataset(fake(num_images=24, image_size=20).train, transform, seed=3, replace=True)
        sampler = TrainSampler(Shuffle(24), BatchLayout(4), epoch=1)
        return list(DataLoader(images, 4, sampler=sampler, collate_fn=collate, **options))

    for one, other in zip(batches(num_workers=1, multiprocessing_context="spawn"), batches(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))


def test_faults_are_reported_from_workers():
    images = dataset(Broken(8, {7: BadImage("empty")}), replace=False)
    keys = [SampleKey(index, 0, index) for index in range(8)]
    found = list(DataLoader(images, 4, sampler=keys, collate_fn=collate, num_workers=2))
    assert [batch.labels.tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, 6]]
    assert [batch.faults for batch in found] == [(), (EMPTY,)]


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not report who sent a signal")
def test_worker_ignores_signals_except_from_its_parent():
    keys = [SampleKey(index, 0, index) for index in range(40)]
    options = dict(sampler=keys, collate_fn=collate, num_workers=1, worker_init_fn=ignore_group_signals)
    loader = DataLoader(dataset(Broken(40), replace=False), **options)
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
