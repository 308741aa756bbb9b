import os
import signal
import threading
import time
from pathlib import Path

import pytest

from fvit.data.images import DataError
from fvit.data.storage.base import File
from fvit.data.storage.cache import Cache, Prefetcher, cache_dir
from tests.data.remote import fork, forks, wait_for

KIB = 2**10


def kib(size):
    return size * KIB / 2**30


def key(name):
    return name.encode().hex().rjust(32, "0")


def writes(content):
    return lambda partial: partial.write_bytes(content) and None


def put(cache, name, size=KIB, used=True):
    path = cache.get(key(name), name, size, writes(name.encode() * (size // len(name))), used=used)
    time.sleep(0.005)  # files need different times even with a coarse clock
    return path


def names(cache):
    return sorted(path.name.split("-", 2)[2] for path in cache.folder.glob("*-*"))


def test_folder_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FVIT_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("FVIT_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "fvit"


def test_file_is_fetched_once(tmp_path):
    cache = Cache(tmp_path, kib(4))
    path = put(cache, "a")
    assert path.read_bytes() == b"a" * KIB
    assert put(cache, "a") == path
    assert cache.get(key("a"), "a", KIB, lambda partial: pytest.fail("fetched again")) == path


def test_file_of_the_wrong_size_is_fetched_again(tmp_path):
    cache = Cache(tmp_path, kib(4))
    put(cache, "a").write_bytes(b"cut")
    assert put(cache, "a").read_bytes() == b"a" * KIB


def test_least_recently_used_is_evicted_first(tmp_path):
    cache = Cache(tmp_path, kib(3))
    for name in "abc":
        put(cache, name)
    put(cache, "a")
    put(cache, "d")
    assert names(cache) == ["a", "c", "d"]
    put(cache, "e", 2 * KIB)
    assert names(cache) == ["d", "e"]


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "mine.tar").write_bytes(bytes(64 * KIB))
    cache = Cache(tmp_path, kib(2))
    for name in "abc":
        put(cache, name)
    assert (tmp_path / "mine.tar").stat().st_size == 64 * KIB
    assert names(cache) == ["b", "c"]


def test_file_larger_than_the_cache_names_the_option(tmp_path):
    with pytest.raises(DataError, match=r"increase data\.cache_gib="):
        put(Cache(tmp_path, kib(1)), "a", 2 * KIB)


def test_prefetched_file_is_kept_until_used(tmp_path):
    cache = Cache(tmp_path, kib(3))
    put(cache, "ahead", used=False)
    put(cache, "b")
    put(cache, "c")
    put(cache, "d")
    assert names(cache) == ["ahead", "c", "d"]
    put(cache, "ahead")
    for name in "efg":
        put(cache, name)
    assert names(cache) == ["e", "f", "g"]


def test_prefetched_files_take_at_most_half_of_the_cache(tmp_path):
    cache = Cache(tmp_path, kib(4))
    prefetcher = Prefetcher(cache, lambda file: put(cache, file.name, file.size, used=False))
    prefetcher.replace([File(name, KIB) for name in "abcdef"])
    wait_for(lambda: len(names(cache)) == 2)
    time.sleep(0.2)
    assert names(cache) == ["a", "b"]
    put(cache, "a")
    wait_for(lambda: names(cache) == ["a", "b", "c"])
    prefetcher.replace([File("z", KIB)])
    put(cache, "b")
    wait_for(lambda: "z" in names(cache))
    put(cache, "c")
    time.sleep(0.2)
    assert "d" not in names(cache)


def test_prefetched_files_of_a_killed_run_expire(tmp_path):
    cache = Cache(tmp_path, kib(2))
    old = put(cache, "old", used=False)
    assert not cache.has_room_to_prefetch(KIB)
    hours_ago = time.time_ns() - 2 * 3600 * 10**9
    os.utime(old, ns=(0, hours_ago))
    assert cache.has_room_to_prefetch(KIB)


def test_failed_fetch_leaves_nothing_and_can_be_repeated(tmp_path):
    cache = Cache(tmp_path, kib(4))

    def fails(partial):
        partial.write_bytes(b"half")
        raise DataError("the host is down")

    for _ in range(2):
        with pytest.raises(DataError, match="the host is down"):
            cache.get(key("a"), "a", KIB, fails)
        assert names(cache) == []
    assert put(cache, "a").read_bytes() == b"a" * KIB


def test_waiting_threads_share_a_failure(tmp_path):
    cache = Cache(tmp_path, kib(4))
    calls, started = [], threading.Event()

    def fails(partial):
        calls.append(partial)
        started.set()
        time.sleep(0.3)
        raise DataError("the host is down")

    def get():
        with pytest.raises(DataError, match="the host is down"):
            cache.get(key("a"), "a", KIB, fails)

    threads = [threading.Thread(target=get) for _ in range(4)]
    threads[0].start()
    started.wait()
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_full_disk_is_reported(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")

    def fills(partial):
        with open("/dev/full", "wb") as disk:
            disk.write(bytes(KIB))

    with pytest.raises(DataError, match=r"no space left in .*data\.cache_gib.*data\.cache_dir"):
        Cache(tmp_path, kib(4)).get(key("a"), "a", KIB, fills)


def test_unwritable_folder_is_reported(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be used .*set data\.cache_dir"):
        put(Cache(tmp_path / "file", kib(4)), "a")


@forks
def test_several_processes_fetch_a_file_once(tmp_path):
    cache = Cache(tmp_path / "cache", kib(64))
    log = tmp_path / "log"

    def slowly(partial):
        with log.open("a") as lines:
            lines.write("fetched\n")
        with partial.open("wb") as target:
            for _ in range(16):
                target.write(b"a" * KIB)
                target.flush()
                time.sleep(0.02)

    def read():
        content = cache.get(key("a"), "a", 16 * KIB, slowly).read_bytes()
        os._exit(0 if content == b"a" * 16 * KIB else 1)

    processes = [fork.Process(target=read) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "fetched\n"


@forks
def test_evicted_file_stays_readable_while_open(tmp_path):
    cache = Cache(tmp_path, kib(2))
    path = put(cache, "a")
    here, there = fork.Pipe()

    def read():
        with path.open("rb") as file:
            there.send("open")
            there.recv()
            there.send(file.read())

    process = fork.Process(target=read)
    process.start()
    assert here.recv() == "open"
    put(cache, "b")
    put(cache, "c")
    assert not path.exists()
    here.send("read")
    assert here.recv() == b"a" * KIB
    process.join()


@forks
def test_killed_fetch_leaves_nothing(tmp_path):
    cache = Cache(tmp_path, kib(2))

    def halfway(partial):
        partial.write_bytes(b"a" * 100)
        time.sleep(60)

    process = fork.Process(target=lambda: cache.get(key("a"), "a", 2 * KIB, halfway))
    process.start()
    wait_for(lambda: any(path.stat().st_size == 100 for path in tmp_path.glob("*.partial")))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert names(cache) == ["a.partial"]
    put(cache, "b", 2 * KIB)
    assert names(cache) == ["b"]
    assert put(cache, "a", 2 * KIB).read_bytes() == b"a" * 2 * KIB


def test_concurrent_fetches_respect_the_size_limit(tmp_path):
    cache = Cache(tmp_path, kib(4))
    most = []

    def slowly(partial):
        most.append(len(list(tmp_path.glob("*-*"))))
        time.sleep(0.05)
        partial.write_bytes(bytes(KIB))

    threads = [
        threading.Thread(target=cache.get, args=(key(str(number)), str(number), KIB, slowly)) for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(most) == 12
    assert max(most) <= 4
    assert len(names(cache)) == 4
