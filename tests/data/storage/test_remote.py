"""Places behind HTTP, against a real server, with faults."""

import hashlib
import logging
import os
import pickle
import signal
import socket
import time
from pathlib import Path

import pytest

from fvit.data.images import DataError
from fvit.data.storage.remote import RemoteStorage
from tests.data.remote_fixtures import (
    SHARD,
    Open,
    fork,
    forks,
    manifest,
    remote,
    server,
    shard,
    succeeds_in_a_fork,
    wait_for,
)
from tests.data.remote_server import FaultyServer

__all__ = ["remote", "server"]  # fixtures, for pytest to find here


def test_the_links_of_a_page_are_its_files(server: FaultyServer, remote: Open) -> None:
    found = remote().files([".tar"])
    assert [file.name for file in found] == ["deep er/val-0.tar", *(f"train-{number}.tar" for number in range(6))]
    assert [file.size for file in found] == [3, *(len(SHARD) - number for number in range(6))]
    assert len({file.version for file in found}) == 7
    assert remote().local(found[0]).read_bytes() == b"val"
    assert remote().files([".json"]) == []


def test_a_manifest_is_the_listing(server: FaultyServer, remote: Open) -> None:
    server.contents["/data/manifest.json"] = manifest(index=b"i", a=b"aa", b=b"bbb")
    found = remote().files([".tar", ".json"])
    assert [(file.name, file.size) for file in found[:3]] == [("a.tar", 2), ("b.tar", 3), ("index.tar", 1)]
    assert found[0].sha256 == hashlib.sha256(b"aa").hexdigest()
    assert found[3].name == "manifest.json"
    assert remote().local(found[3]).read_bytes() == server.contents["/data/manifest.json"]
    assert set(server.requests) == {"/data/manifest.json"}


def test_another_projects_manifest_is_none(server: FaultyServer, remote: Open) -> None:
    for text in (b'{"manifest_version": 3}', b'{"format": "zarr"}', b'["fvit-shards"]'):
        server.contents["/data/manifest.json"] = text
        assert len(remote().files([".tar"])) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", r"/data/manifest\.json is no manifest .*JSON"),
        (b'{"format": "fvit-shards"}', r"/data/manifest\.json is no manifest .*required"),
        (manifest(index=b"i", a=b"a").replace(b"index.tar", b"../../index.tar"), r"'../../index.tar' leads outside"),
    ],
)
def test_a_damaged_manifest_is_told(text: bytes, message: str, server: FaultyServer, remote: Open) -> None:
    server.contents["/data/manifest.json"] = text
    with pytest.raises(DataError, match=message):
        remote().files([".tar"])


@pytest.mark.parametrize("fault", [503, 500, 429, "cut", "reset", "short", "silent", "stalled", "wrong"])
def test_a_fault_that_passes_is_tried_again(fault: str | int, server: FaultyServer, remote: Open) -> None:
    server.faults["/data/train-0.tar"] = [fault, None]
    file = shard(0, sha256=hashlib.sha256(SHARD).hexdigest())
    assert remote().local(file).read_bytes() == SHARD
    assert server.requests["/data/train-0.tar"] == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (503, r"HTTP 503"),
        ("cut", r"not completed"),
        ("reset", r"\w"),
        ("short", r"131,071 bytes came and 131,072 should have"),
        ("stalled", r"stalled|[Tt]imeout"),
        ("wrong", r"wrong bytes: their sha256 is \w+ and should be \w+"),
    ],
)
def test_a_fault_that_stays_is_told(fault: str | int, message: str, server: FaultyServer, remote: Open) -> None:
    server.faults["/data/train-0.tar"] = [fault]
    file = shard(0, sha256=hashlib.sha256(SHARD).hexdigest())
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"{server.url}/data/train-0\.tar: .*{message}.* \(3 tries\)") as caught:
        remote(tries=3).local(file)
    assert time.monotonic() - start < 5
    assert server.requests["/data/train-0.tar"] == (6 if fault == "reset" else 3)  # aiohttp has a second try of its own
    assert caught.value.__context__ is None
    assert not list(remote().cache.folder.glob("*-*"))


def test_the_deadline_is_on_progress_and_not_on_the_file(server: FaultyServer, remote: Open) -> None:
    server.faults["/data/train-0.tar"] = ["slow"]
    start = time.monotonic()
    assert remote(stall=0.4).local(shard(0)).read_bytes() == SHARD
    assert time.monotonic() - start > 0.7
    assert server.requests["/data/train-0.tar"] == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "does not exist"), (403, r"access denied \(HTTP 403\). Credentials are looked for in"), (400, "HTTP 400")],
)
def test_what_trying_again_cannot_mend_is_told_at_once(
    status: int, message: str, server: FaultyServer, remote: Open
) -> None:
    server.faults["/data/train-0.tar"] = [status]
    with pytest.raises(DataError, match=rf"{server.url}/data/train-0\.tar.*{message}"):
        remote().local(shard(0))
    assert server.requests["/data/train-0.tar"] == 1


def test_a_listing_meets_faults_as_well(server: FaultyServer, remote: Open) -> None:
    server.faults["/data/"] = [503, None]
    server.faults["/data/deep er/"] = ["cut", None]
    assert len(remote().files([".tar"])) == 7
    server.faults["/data/deep er/"] = [503]
    with pytest.raises(DataError, match=r"/data/deep er/: HTTP 503 \(2 tries\)"):
        remote(tries=2).files([".tar"])
    with pytest.raises(DataError, match=r"nowhere/? does not exist"):
        remote(f"{server.url}/nowhere").files([".tar"])


def test_a_server_that_is_not_there_is_told(remote: Open) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        root = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DataError, match=rf"{root}/manifest\.json: Cannot connect .*\(2 tries\)"):
            remote(root, tries=2).files([".tar"])
        with pytest.raises(DataError, match=rf"{root}/train-0\.tar: Cannot connect .*\(2 tries\)"):
            remote(root, tries=2).local(shard(0))


def test_a_changed_file_is_another_one(server: FaultyServer, remote: Open) -> None:
    (before,) = remote().files(["train-0.tar"])
    assert remote().local(before).read_bytes() == SHARD
    server.contents["/data/train-0.tar"] = SHARD[::-1]
    (after,) = remote().files(["train-0.tar"])
    assert remote().local(after).read_bytes() == SHARD[::-1]


def test_credentials_are_sent_and_never_shown(
    server: FaultyServer, remote: Open, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    root = f"http://user:hush1@127.0.0.1:{server.server_port}/data?X-Amz-Signature=hush2%2Fa&b"
    server.faults["/data/train-1.tar"] = [403]
    server.faults["/data/train-2.tar"] = [503]
    server.faults["/data/train-3.tar"] = ["cut"]
    there = remote(root, tries=2)
    assert there.root == f"{server.url}/data"
    assert len(there.files([".tar"])) == 7
    there.local(shard(0))
    messages = [repr(there), str(there)]
    for number in (1, 2, 3):
        with pytest.raises(DataError) as caught:
            there.local(shard(number))
        messages += [str(caught.value), repr(caught.value.__cause__), repr(caught.value.__context__)]
    target, headers = server.seen[-1]
    assert target == "/data/train-3.tar?X-Amz-Signature=hush2/a&b="
    assert headers["Authorization"].startswith("Basic ")
    messages += [str(path) for path in tmp_path.rglob("*")]
    messages += [record.getMessage() for record in caplog.records]
    assert "hush" not in " ".join(messages)
    assert "fetched http" in caplog.text


def test_a_fetch_ahead_is_in_order_and_is_used(server: FaultyServer, remote: Open) -> None:
    there = remote()
    server.faults["/data/train-1.tar"] = [404, None]
    there.prefetch([shard(2), shard(1), shard(0)])
    wait_for(lambda: server.requests["/data/train-0.tar"])
    wait_for(lambda: len(list(there.cache.folder.glob("*.tar"))) == 2)
    for number in (2, 1, 0):
        assert there.local(shard(number)).read_bytes() == SHARD[number:]
    assert list(server.requests) == ["/data/train-2.tar", "/data/train-1.tar", "/data/train-0.tar"]
    assert server.requests == {"/data/train-2.tar": 1, "/data/train-1.tar": 2, "/data/train-0.tar": 1}


@forks
def test_several_processes_fetch_a_file_once(server: FaultyServer, remote: Open) -> None:
    server.faults["/data/train-0.tar"] = ["slow"]
    there = remote()
    processes = [
        fork.Process(target=lambda: os._exit(0 if there.local(shard(0)).read_bytes() == SHARD else 1)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0] * 4
    assert server.requests["/data/train-0.tar"] == 1


@forks
def test_a_fork_has_connections_of_its_own(server: FaultyServer, remote: Open) -> None:
    there = remote()
    files = there.files([".tar"])
    there.prefetch(files[4:6])
    there.local(files[1])

    def work() -> bool:
        there.prefetch([files[3]])
        wait_for(lambda: server_has_sent(there, 3))
        return there.local(files[2]).read_bytes() == SHARD[1:]

    def server_has_sent(place: RemoteStorage, number: int) -> bool:
        return any(path.name.endswith(f"train-{number - 1}.tar") for path in place.cache.folder.glob("*.tar"))

    assert succeeds_in_a_fork(work)
    assert there.local(files[0]).read_bytes() == b"val"
    assert server.requests["/data/train-1.tar"] == 1


def test_a_place_can_be_pickled(remote: Open) -> None:
    there = remote()
    there.prefetch([shard(0)])
    assert pickle.loads(pickle.dumps(there)).local(shard(1)).read_bytes() == SHARD[1:]


@forks
def test_kill_in_the_middle_of_a_fetch_leaves_no_half_file(server: FaultyServer, remote: Open) -> None:
    server.faults["/data/train-0.tar"] = ["stalled", None]
    there = remote(stall=60)
    process = fork.Process(target=there.local, args=(shard(0),))
    process.start()
    wait_for(lambda: any(path.stat().st_size for path in there.cache.folder.glob("*.partial")))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not list(there.cache.folder.glob("*.tar"))
    assert there.local(shard(0)).read_bytes() == SHARD
    assert not list(there.cache.folder.glob("*.partial"))
