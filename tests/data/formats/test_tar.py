import multiprocessing
import os
import pickle
import resource
import tarfile
import threading
import zlib

import numpy as np
import pytest

from fvit.data.formats import tar
from fvit.data.formats.tar import TarImages, open_tars
from fvit.data.formats.webdataset import ENTRY
from fvit.data.images import BadImage, DataError
from fvit.data.storage.base import File, LocalStorage
from tests.data.tars import flip, noise, write_set, write_tar

CONTENTS = [[b"first", b"second!", b""], [b"third" * 1000], [b"4", b"55"]]


@pytest.fixture
def images(tmp_path):
    """Six images in three shards, of which number 2 is empty; labels are 10, 11, …"""

    def make(crc=True, contents=CONTENTS):
        rows, files = [], []
        for number, shard in enumerate(contents):
            path = write_tar(tmp_path / f"{number}.tar", [(f"{number}-{k}.jpg", data) for k, data in enumerate(shard)])
            files.append(File(path.name, path.stat().st_size))
            with tarfile.open(path) as opened:
                for member, data in zip(opened, shard, strict=True):
                    rows.append((member.offset_data, member.size, 10 + len(rows), zlib.crc32(data) if crc else 0))
        counts = [len(shard) for shard in contents]
        return TarImages(LocalStorage(tmp_path), files, counts, np.array(rows, dtype=ENTRY))

    return make


@pytest.mark.parametrize("crc", [True, False])
def test_images_are_read_by_index(images, crc):
    made = images(crc)
    assert len(made) == 6
    assert made.labels.dtype == np.int32
    assert made.labels.tolist() == [10, 11, 12, 13, 14, 15]
    assert made.shard_sizes.tolist() == [3, 1, 2]
    expected = [data for shard in CONTENTS for data in shard]
    assert [made.read(index) for index in (5, 0, 3, 1, 4)] == [expected[index] for index in (5, 0, 3, 1, 4)]
    assert pickle.loads(pickle.dumps(made)).read(5) == b"55"


def test_locate_names_the_member(images, tmp_path):
    made = images()
    assert made.locate(3) == f"{tmp_path}/1.tar: 1-0.jpg"
    (tmp_path / "2.tar").unlink()
    assert made.locate(4) == f"{tmp_path}/2.tar: the image at byte 512"


@pytest.mark.parametrize("index", [-1, 6])
def test_index_out_of_range(images, index):
    with pytest.raises(IndexError):
        images().read(index)


def test_empty_image_is_bad(images):
    with pytest.raises(BadImage, match=r"0\.tar: 0-2\.jpg is empty"):
        images().read(2)


def test_checksum_detects_a_flipped_byte(images, tmp_path):
    made = images()
    flip(tmp_path / "1.tar", 600)
    with pytest.raises(BadImage, match=r"1\.tar: 1-0\.jpg is damaged"):
        made.read(3)
    assert made.read(4) == b"4"


def test_missing_or_truncated_shard_is_not_one_bad_image(images, tmp_path):
    made = images()
    made.read(3)  # opens the shard
    (tmp_path / "0.tar").unlink()
    for number in (1, 2):
        os.truncate(tmp_path / f"{number}.tar", 2000)
    for index, message in (
        (0, r"0\.tar is missing"),
        (3, r"1\.tar was truncated to 2,000 bytes"),
        (4, r"2\.tar has 2,000 bytes instead of"),
    ):
        with pytest.raises(DataError, match=message) as error:
            made.read(index)
        assert not isinstance(error.value, BadImage)


def test_failed_read_reopens_the_file(images, monkeypatch):
    made = images()
    made.read(0)
    before = made._open(0)
    with monkeypatch.context() as patch:
        patch.setattr(tar.os, "pread", lambda *_: (_ for _ in ()).throw(OSError(116, "stale")))
        with pytest.raises(OSError, match="stale"):
            made.read(0)
    assert made._open(0) is not before
    assert made.read(0) == b"first"


def open_below(folder):
    """The files of `folder` that this process has open."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    return [target for target in targets if target.startswith(f"{folder}/")]


def test_open_files_are_limited_and_closed(images, monkeypatch, tmp_path):
    monkeypatch.setattr(tar, "_max_open_files", lambda: 2)
    made = images(contents=[[bytes([k])] for k in range(20)])
    assert [made.read(index) for index in (*range(20), 0)] == [bytes([k]) for k in (*range(20), 0)]
    assert len(open_below(tmp_path)) == 2
    del made
    assert open_below(tmp_path) == []


@pytest.mark.parametrize(("limit", "most"), [(1024, 256), (2, 1), (resource.RLIM_INFINITY, 4096)])
def test_open_files_depend_on_the_process_limit(monkeypatch, limit, most):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert tar._max_open_files() == most


def test_threads_may_evict_each_others_files(images, monkeypatch):
    monkeypatch.setattr(tar, "_max_open_files", lambda: 1)
    made = images(contents=[[bytes([k]) * 50] for k in range(8)])
    wrong = []

    def work(seed):
        for index in np.random.default_rng(seed).integers(8, size=400).tolist():
            if made.read(index) != bytes([index]) * 50:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _read_many(made, seed, failures):
    expected = [bytes([k]) * 3000 for k in range(40)]
    for index in np.random.default_rng(seed).integers(40, size=2000).tolist():
        if made.read(index) != expected[index]:
            failures.put(index)


def test_forked_processes_share_no_file_position(images):
    made = images(contents=[[bytes([10 * s + k]) * 3000 for k in range(10)] for s in range(4)])
    made.read(0)  # opened before the fork
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()
    workers = [context.Process(target=_read_many, args=(made, seed, failures)) for seed in range(2)]
    for worker in workers:
        worker.start()
    _read_many(made, 9, failures)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert failures.empty()


def test_prefetch_takes_shard_numbers(images, monkeypatch):
    made = images()
    asked = []
    monkeypatch.setattr(made.storage, "prefetch", asked.extend, raising=False)
    made.prefetch(np.array([2, 0]))
    assert [file.name for file in asked] == ["2.tar", "0.tar"]


def test_webdataset_is_read_in_place(tmp_path):
    write_set(tmp_path / "set", train=((0, 1), (2, 0, 1)), val=((2, 0),))
    train, val, classes = open_tars(LocalStorage(tmp_path / "set"), tmp_path / "cache")
    assert train.labels.tolist() == [0, 1, 2, 0, 1]
    assert val.labels.tolist() == [2, 0]
    assert classes == ["0", "1", "2"]
    assert train.shard_sizes.tolist() == [2, 3]
    assert [train.read(k) for k in range(5)] == [noise(seed) for seed in range(1, 6)]
    assert [val.read(k) for k in range(2)] == [noise(6), noise(7)]
    assert train.locate(2) == f"{tmp_path}/set/set-train-0001.tar: train_1_0.jpg"
