import logging
import multiprocessing
import os

import numpy as np
import pytest

from fvit.data import pool
from fvit.data.formats import index
from fvit.data.formats.shards import class_names, open_shards, splits
from fvit.data.images import DataError
from fvit.data.storage.base import LocalStorage
from tests.data.tars import noise, sample, write_set, write_tar


@pytest.fixture
def opened(tmp_path):
    def make(root=None):
        return open_shards(LocalStorage(root or tmp_path / "set"), tmp_path / "cache")

    return make


@pytest.fixture
def scanned(monkeypatch):
    """Names of the shards that are walked."""
    names = []

    def scan(path, name, real=index.scan):
        names.append(name.rpartition("/")[2])
        return real(path, name)

    monkeypatch.setattr(index, "scan", scan)
    return names


def test_foreign_shards_are_read_in_place(opened, tmp_path):
    write_set(tmp_path / "set", train=((0, 1), (2, 0, 1)), val=((2, 0),))
    train, val, classes = opened()
    assert train.labels.tolist() == [0, 1, 2, 0, 1]
    assert val.labels.tolist() == [2, 0]
    assert classes == ["0", "1", "2"]
    assert train.shard_sizes.tolist() == [2, 3]
    assert [train.read(k) for k in range(5)] == [noise(seed) for seed in range(1, 6)]
    assert [val.read(k) for k in range(2)] == [noise(6), noise(7)]
    assert train.locate(2) == f"{tmp_path}/set/set-train-0001.tar: train_1_0.jpg"


def test_the_index_is_built_once_and_for_changed_shards_anew(opened, tmp_path, scanned):
    root = write_set(tmp_path / "set")
    opened()
    assert scanned == ["set-train-0000.tar", "set-train-0001.tar", "set-validation-0000.tar"]
    opened()
    assert len(scanned) == 3
    write_tar(root / "set-train-0001.tar", [*sample("x", 0), *sample("y", 1), *sample("z", 2)])
    train, _, _ = opened()
    assert train.labels.tolist() == [0, 1, 0, 1, 2]
    # Same size, another time.
    path = root / "set-validation-0000.tar"
    os.utime(path, ns=(1, 1))
    del scanned[:]
    opened()
    assert scanned == [path.name]


def test_an_interrupted_build_goes_on(opened, tmp_path, scanned):
    root = write_set(tmp_path / "set", train=((0, 1), (2, 0), (1, 1)))
    last = root / "set-train-0002.tar"
    whole, times = last.read_bytes(), last.stat()
    last.write_bytes(b"\1" * len(whole))
    os.utime(last, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match=r"set-train-0002\.tar"):
        opened()
    last.write_bytes(whole)
    os.utime(last, ns=(times.st_atime_ns, times.st_mtime_ns))
    del scanned[:]
    train, _, _ = opened()
    assert scanned == ["set-train-0002.tar", "set-validation-0000.tar"]
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 1]


def _open_and_count(root, cache, queue):
    real = index.scan

    def scan(path, name):
        queue.put(name)
        return real(path, name)

    index.scan = scan
    train, _, _ = open_shards(LocalStorage(root), cache)
    queue.put(len(train))


def test_of_several_processes_one_builds(tmp_path):
    root = write_set(tmp_path / "set", train=((0, 1), (2, 0)), val=((0, 1),))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    ranks = [context.Process(target=_open_and_count, args=(root, tmp_path / "cache", queue)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    told = [queue.get() for _ in range(3 + 4)]
    assert queue.empty()
    assert sorted(str(item) for item in told if item != 4) == sorted(f"{root}/{path.name}" for path in root.iterdir())
    assert told.count(4) == 4


def test_many_shards_are_walked_by_several_processes(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(index.os, "cpu_count", lambda: 3)
    used = []
    real = pool.run
    monkeypatch.setattr(pool, "run", lambda *arguments: used.append(arguments[2]) or real(*arguments))
    write_set(tmp_path / "set", train=[(k % 3, 1) for k in range(20)])
    train, _, _ = opened()
    assert used == [3, 0]
    assert train.labels.tolist() == [label for k in range(20) for label in (k % 3, 1)]
    assert [train.read(k) for k in range(40)] == [noise(seed) for seed in range(1, 41)]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet1k-train-0000.tar", "train"),
        ("imagenet1k-validation-00.tar", "val"),
        ("val/0001.tar", "val"),
        ("train/validation/0.tar", "val"),
        ("TRAIN/x.tar", "train"),
        ("train_000.tar", "train"),
        ("val12.tar", "val"),
        ("train/val-0.tar", "val"),
        ("x-test-0.tar", "test"),
        ("restrained/valid8.tar", "val"),
        ("training.tar", "train"),
        ("trains/x.tar", None),
        ("evaluation.tar", None),
    ],
)
def test_splits_are_words_of_names(name, split):
    assert [found for found, names in splits([name]).items() if names] == ([split] if split else [])


def test_test_stands_in_for_a_missing_val(opened, tmp_path):
    write_tar(tmp_path / "set/train-0.tar", sample("a", 0))
    write_tar(tmp_path / "set/test-0.tar", [*sample("b", 0), *sample("c", 0)])
    assert len(opened()[1]) == 2
    write_tar(tmp_path / "set/val-0.tar", sample("d", 0))
    assert len(opened()[1]) == 1


def test_a_set_without_a_split_is_refused(opened, tmp_path):
    write_tar(tmp_path / "set/train-0.tar", sample("a", 0))
    with pytest.raises(DataError, match=r"no shards of validation images: it has train-0\.tar\. A shard is known by"):
        opened()
    (tmp_path / "set/train-0.tar").unlink()
    with pytest.raises(DataError, match=r"it has no \.tar files"):
        opened()


def test_a_label_of_val_beyond_those_of_train_names_the_member(opened, tmp_path):
    write_set(tmp_path / "set", train=((0, 1),), val=((0, 1, 2),))
    with pytest.raises(DataError, match=r"set-validation-0000\.tar: validation_0_2\.jpg has label 2.*0 to 1"):
        opened()


def test_a_thousand_labels_are_those_of_imagenet(caplog):
    names = class_names(np.arange(1000, dtype=np.int32)[::-1])
    assert (names[0], names[1], names[999]) == ("n01440764", "n01443537", "n15075141")
    assert class_names(np.arange(999, dtype=np.int32))[-1] == "998"
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert class_names(np.array([0, 3], dtype=np.int32)) == ["0", "1", "2", "3"]
    assert "labels run to 3, and 2 of them have no training image" in caplog.text
