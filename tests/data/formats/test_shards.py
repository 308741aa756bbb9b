import logging
import multiprocessing
import os

import numpy as np
import pytest

from fvit.data import pool
from fvit.data.formats import shards
from fvit.data.formats.shards import choose_splits, default_class_names, index_shards, split_of
from fvit.data.formats.webdataset import scan
from fvit.data.images import DataError
from fvit.data.storage.base import File, LocalStorage
from tests.data.tars import sample, write_set, write_tar


class Indexer:
    """Notes the names of the shards that are indexed in this process."""

    def __init__(self):
        self.names = []

    def __call__(self, path, name):
        self.names.append(name.rpartition("/")[2])
        return scan(path, name)


@pytest.fixture
def indexed(tmp_path):
    """Index the shards of tmp_path/set: the names of those that were not cached, and all labels."""

    def index():
        storage, indexer = LocalStorage(tmp_path / "set"), Indexer()
        found = index_shards(storage, storage.files([".tar"]), tmp_path / "cache", indexer)
        return indexer.names, [one["entries"]["label"].tolist() for one in found]

    return index


def test_index_is_built_once_and_again_for_changed_shards(indexed, tmp_path):
    root = write_set(tmp_path / "set")
    names = ["set-train-0000.tar", "set-train-0001.tar", "set-validation-0000.tar"]
    assert indexed() == (names, [[0, 1], [2, 0], [0, 1, 2]])
    assert indexed() == ([], [[0, 1], [2, 0], [0, 1, 2]])
    write_tar(root / names[1], [*sample("x", 0), *sample("y", 1), *sample("z", 2)])
    assert indexed() == ([names[1]], [[0, 1], [0, 1, 2], [0, 1, 2]])
    os.utime(root / names[2], ns=(1, 1))  # the same size, but another time
    assert indexed()[0] == [names[2]]


def test_interrupted_index_is_resumed(indexed, tmp_path):
    root = write_set(tmp_path / "set", train=((0, 1), (2, 0), (1, 1)))
    last = root / "set-train-0002.tar"
    content, times = last.read_bytes(), last.stat()
    last.write_bytes(b"\1" * len(content))
    os.utime(last, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match=r"set-train-0002\.tar"):
        indexed()
    last.write_bytes(content)
    os.utime(last, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert indexed() == (["set-train-0002.tar", "set-validation-0000.tar"], [[0, 1], [2, 0], [1, 1], [0, 1, 2]])


def _index(root, cache, queue):
    def read_index(path, name):
        queue.put(name)
        return scan(path, name)

    storage = LocalStorage(root)
    queue.put(len(index_shards(storage, storage.files([".tar"]), cache, read_index)))


def test_one_of_several_processes_builds_the_index(tmp_path):
    root = write_set(tmp_path / "set")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    ranks = [context.Process(target=_index, args=(root, tmp_path / "cache", queue)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    found = [queue.get() for _ in range(3 + 4)]
    assert queue.empty()
    assert sorted(item for item in found if item != 3) == sorted(f"{root}/{path.name}" for path in root.iterdir())


def test_many_shards_are_indexed_in_parallel(indexed, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "usable_cores", lambda: 2)
    used = []
    real = pool.run
    monkeypatch.setattr(pool, "run", lambda *arguments: used.append(arguments[2]) or real(*arguments))
    write_set(tmp_path / "set", train=[(k % 3, 1) for k in range(16)])
    assert indexed() == ([], [*([k % 3, 1] for k in range(16)), [0, 1, 2]]), "in processes of their own"
    assert used == [2]


def test_damaged_index_is_reported(indexed, tmp_path):
    write_set(tmp_path / "set")
    indexed()
    for path in (tmp_path / "cache").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"\.npz is damaged .*: delete it"):
        indexed()


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet1k-train-0000.tar", "train"),
        ("imagenet1k-validation-00.tar", "val"),
        ("val/0001.tar", "val"),
        ("train/validation/0.tar", "val"),
        ("TRAIN/x.tar", "train"),
        ("val12.tar", "val"),
        ("train/val-0.tar", "val"),
        ("x-test-0.tar", "test"),
        ("restrained/valid8.tar", "val"),
        ("training.tar", "train"),
        ("trains/x.tar", None),
        ("evaluation.tar", None),
    ],
)
def test_split_is_a_word_of_the_name(name, split):
    assert split_of(name) == split


def test_test_split_replaces_a_missing_val_split(tmp_path):
    storage = LocalStorage(tmp_path)
    train, test, val = (File(f"{name}-0.tar", 1) for name in ("train", "test", "val"))
    assert choose_splits(storage, [train, test], "tar") == ([train], [test])
    assert choose_splits(storage, [train, test, val], "tar") == ([train], [val])
    for files, message in (
        ([train], r"no tar files for validation: it has train-0\.tar\. The split must be a word in their names"),
        ([val], r"no tar files for training"),
        ([], "it has none"),
    ):
        with pytest.raises(DataError, match=message):
            choose_splits(storage, files, "tar")


def test_default_class_names(caplog):
    caplog.set_level("WARNING")
    names = default_class_names(np.arange(1000, dtype=np.int32)[::-1])
    assert (names[0], names[1], names[999]) == ("n01440764", "n01443537", "n15075141")
    assert default_class_names(np.arange(999, dtype=np.int32))[-1] == "998"
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert default_class_names(np.array([0, 3], dtype=np.int32)) == ["0", "1", "2", "3"]
    with caplog.at_level(logging.INFO):
        default_class_names(np.arange(1000, dtype=np.int32))
    assert "their 1,000 labels are taken for ImageNet's, in the order of its WordNet IDs" in caplog.text
    assert "labels go up to 3, but 2 of them have no training image" in caplog.text
