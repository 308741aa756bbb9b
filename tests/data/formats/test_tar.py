import multiprocessing
import os
import pickle
import resource
import tarfile
import threading
import zlib

import numpy as np
import pytest

from fvit.data.formats import tar as tars_of_images
from fvit.data.formats.tar import ENTRY, TarImages, load_index
from fvit.data.images import BadImage, DataError
from fvit.data.storage.base import File, LocalStorage
from tests.data.tars import flip, write_tar

CONTENTS = [[b"first", b"second!", b""], [b"third" * 1000], [b"4", b"55"]]


@pytest.fixture
def images(tmp_path):
    """Six images in three shards, number 2 empty; labels are 10, 11, …"""

    def make(has_crc=True, contents=CONTENTS):
        rows, files = [], []
        for number, shard in enumerate(contents):
            path = write_tar(tmp_path / f"{number}.tar", [(f"{number}-{k}.jpg", data) for k, data in enumerate(shard)])
            files.append(File(path.name, path.stat().st_size))
            with tarfile.open(path) as tar:
                for member, data in zip(tar, shard, strict=True):
                    rows.append((member.offset_data, member.size, 10 + len(rows), zlib.crc32(data) if has_crc else 0))
        np.save(tmp_path / "index.npy", np.array(rows, dtype=ENTRY))
        counts = np.array([len(shard) for shard in contents])
        return TarImages(LocalStorage(tmp_path), files, counts, tmp_path / "index.npy", has_crc)

    return make


@pytest.mark.parametrize("has_crc", [True, False])
def test_every_image_is_read_by_its_number(images, has_crc):
    made = images(has_crc)
    assert len(made) == 6
    assert made.labels.dtype == np.int32
    assert made.labels.tolist() == [10, 11, 12, 13, 14, 15]
    assert made.shard_sizes.tolist() == [3, 1, 2]
    expected = [data for shard in CONTENTS for data in shard]
    assert [made.read(index) for index in (5, 0, 3, 1, 4)] == [expected[index] for index in (5, 0, 3, 1, 4)]


def test_an_image_is_located_in_its_member(images, tmp_path):
    made = images()
    assert made.locate(3) == f"{tmp_path}/1.tar: 1-0.jpg"
    (tmp_path / "2.tar").unlink()
    assert made.locate(4) == f"{tmp_path}/2.tar: the image at byte 512"


@pytest.mark.parametrize("index", [-1, 6])
def test_there_is_nothing_beyond_the_ends(images, index):
    with pytest.raises(IndexError):
        images().read(index)


def test_an_empty_image_is_bad(images):
    with pytest.raises(BadImage, match=r"0\.tar: 0-2\.jpg is empty"):
        images().read(2)


def test_a_flipped_byte_is_noticed_where_the_index_knows_checksums(images, tmp_path):
    made = images()
    flip(tmp_path / "1.tar", 600)
    with pytest.raises(BadImage, match=r"1\.tar: 1-0\.jpg is damaged"):
        made.read(3)
    assert made.read(4) == b"4"


def test_missing_and_truncated_shards_are_no_single_images(images, tmp_path):
    made = images()
    (tmp_path / "0.tar").unlink()
    os.truncate(tmp_path / "1.tar", 2000)
    for index, message in ((0, r"0\.tar is missing"), (3, r"1\.tar has 2,000 bytes and should have")):
        with pytest.raises(DataError, match=message) as error:
            made.read(index)
        assert not isinstance(error.value, BadImage)
    assert made.read(4) == b"4"


def test_a_shard_that_is_truncated_while_it_is_open_is_named(images, tmp_path):
    made = images()
    made.read(3)
    os.truncate(tmp_path / "1.tar", 2000)
    with pytest.raises(DataError, match=r"1\.tar ends within an image, at byte 2,000"):
        made.read(3)


def test_a_read_that_failed_does_not_keep_the_next_from_succeeding(images, monkeypatch):
    made = images()
    made.read(0)
    before = made._file(0)
    with monkeypatch.context() as patch:
        patch.setattr(tars_of_images.os, "pread", lambda *_: (_ for _ in ()).throw(OSError(116, "stale")))
        with pytest.raises(OSError, match="stale"):
            made.read(0)
    assert made._file(0) is not before
    assert made.read(0) == b"first"


def open_below(folder):
    """The files of `folder` that this process holds open: other tests' threads open and close theirs meanwhile."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    return [target for target in targets if target.startswith(f"{folder}/")]


def test_few_files_stay_open(images, monkeypatch, tmp_path):
    monkeypatch.setattr(tars_of_images, "_most_open", lambda: 2)
    made = images(contents=[[bytes([k])] for k in range(20)])
    assert [made.read(index) for index in (*range(20), 0)] == [bytes([k]) for k in (*range(20), 0)]
    assert len([name for name in open_below(tmp_path) if name.endswith(".tar")]) == 2
    del made
    assert open_below(tmp_path) == [], "nor the index's own"


@pytest.mark.parametrize(("limit", "most"), [(1024, 256), (2, 1), (resource.RLIM_INFINITY, 4096)])
def test_how_many_stay_open_depends_on_the_limit(monkeypatch, limit, most):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert tars_of_images._most_open() == most


def test_threads_that_evict_each_others_files_read_the_right_ones(images, monkeypatch):
    monkeypatch.setattr(tars_of_images, "_most_open", lambda: 1)
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


def test_a_copy_in_another_process_brings_no_index_along(images):
    made = images(contents=[[b"x"] * 5000])
    sent = pickle.dumps(made)
    assert len(sent) < 2000
    assert pickle.loads(sent).read(4999) == b"x"


def test_the_index_is_mapped_and_holds_20_bytes_an_image(images):
    made = images()
    assert ENTRY.itemsize == 20
    base = made.labels
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.mode == "r"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(b""),
        lambda path: np.save(path, np.zeros(6)),
        lambda path: np.save(path, np.zeros((2, 3), ENTRY)),
        lambda path: path.write_bytes(pickle.dumps(np.zeros(6, ENTRY))),
        lambda path: np.save(path, np.array([print], dtype=object)),
        lambda path: np.savez(path.with_suffix(".npz"), a=np.zeros(6, ENTRY)) or path.with_suffix(".npz").replace(path),
    ],
)
def test_a_damaged_index_is_refused_and_nothing_unpickled(images, tmp_path, damage):
    images()
    damage(tmp_path / "index.npy")
    with pytest.raises(DataError, match=r"index\.npy is no index"):
        load_index(tmp_path / "index.npy")


@pytest.mark.parametrize(("field", "value"), [("offset", 1 << 40), ("offset", (1 << 64) - 1), ("size", 1 << 30)])
def test_an_index_that_points_outside_its_shards_is_refused(images, tmp_path, field, value):
    made = images()
    entries = np.load(tmp_path / "index.npy")
    entries[field][3] = value
    np.save(tmp_path / "index.npy", entries)
    with pytest.raises(DataError, match=r"points beyond the end of .*1\.tar"):
        pickle.loads(pickle.dumps(made))


def test_shards_are_fetched_ahead_by_number(images, monkeypatch):
    made = images()
    asked = []
    monkeypatch.setattr(made._place, "prefetch", asked.extend, raising=False)
    made.prefetch(np.array([2, 0]))
    assert [file.name for file in asked] == ["2.tar", "0.tar"]
