import hashlib
import logging
import pickle
import socket
import time

import pytest

from fvit.data.images import DataError
from tests.data.remote import SHARD, forks, manifest, shard, succeeds_in_a_fork, wait_for


def test_listing_from_html_links(server, remote):
    found = remote().files([".tar"])
    assert [file.name for file in found] == ["deep er/val-0.tar", *(f"train-{number}.tar" for number in range(6))]
    assert [file.size for file in found] == [3, *(len(SHARD) - number for number in range(6))]
    assert len({file.version for file in found}) == 7
    assert remote().local(found[0]).read_bytes() == b"val"
    assert remote().files([".json"]) == []


def test_listing_from_the_manifest(server, remote):
    server.contents["/data/manifest.json"] = manifest(index=b"i", a=b"aa", b=b"bbb")
    found = remote().files([".tar", ".json"])
    assert [(file.name, file.size) for file in found[:3]] == [("a.tar", 2), ("b.tar", 3), ("index.tar", 1)]
    assert found[0].sha256 == hashlib.sha256(b"aa").hexdigest()
    assert found[3].name == "manifest.json"
    assert remote().local(found[3]).read_bytes() == server.contents["/data/manifest.json"]
    assert set(server.requests) == {"/data/manifest.json"}


def test_manifest_of_another_project_is_ignored(server, remote):
    for text in (b'{"manifest_version": 3}', b'{"format": "zarr"}', b'["fvit-shards"]'):
        server.contents["/data/manifest.json"] = text
        assert len(remote().files([".tar"])) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", r"/data/manifest\.json is not a valid manifest.*JSON"),
        (b'{"format": "fvit-shards"}', r"/data/manifest\.json is not a valid manifest.*required"),
        (
            manifest(index=b"i", a=b"a").replace(b"index.tar", b"../../index.tar"),
            "'../../index.tar' is not inside",
        ),
    ],
)
def test_damaged_manifest_is_reported(text, message, server, remote):
    server.contents["/data/manifest.json"] = text
    with pytest.raises(DataError, match=message):
        remote().files([".tar"])


@pytest.mark.parametrize("fault", [503, 500, 429, "cut", "reset", "short", "silent", "stalled", "wrong"])
def test_transient_fault_is_retried(fault, server, remote):
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
        ("short", r"received 131,071 bytes instead of 131,072"),
        ("stalled", r"stalled|[Tt]imeout"),
        ("wrong", r"wrong content: its sha256 is \w+ instead of \w+"),
    ],
)
def test_persistent_fault_is_reported(fault, message, server, remote):
    server.faults["/data/train-0.tar"] = [fault]
    file = shard(0, sha256=hashlib.sha256(SHARD).hexdigest())
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"{server.url}/data/train-0\.tar: .*{message}.* \(3 tries\)") as caught:
        remote(tries=3).local(file)
    assert time.monotonic() - start < 5
    assert server.requests["/data/train-0.tar"] == (
        6 if fault == "reset" else 3
    )  # aiohttp makes a second attempt itself
    assert caught.value.__context__ is None
    assert not list(remote().cache.folder.glob("*-*"))


def test_timeout_is_between_chunks(server, remote):
    server.faults["/data/train-0.tar"] = ["slow"]
    start = time.monotonic()
    assert remote(stall=0.4).local(shard(0)).read_bytes() == SHARD
    assert time.monotonic() - start > 0.7
    assert server.requests["/data/train-0.tar"] == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "does not exist"), (403, r"access denied \(HTTP 403\). Credentials are looked up in"), (400, "HTTP 400")],
)
def test_permanent_error_is_not_retried(status, message, server, remote):
    server.faults["/data/train-0.tar"] = [status]
    with pytest.raises(DataError, match=rf"{server.url}/data/train-0\.tar.*{message}"):
        remote().local(shard(0))
    assert server.requests["/data/train-0.tar"] == 1


def test_faults_of_the_listing(server, remote):
    server.faults["/data/"] = [503, None]
    server.faults["/data/deep er/"] = ["cut", None]
    assert len(remote().files([".tar"])) == 7
    server.faults["/data/deep er/"] = [503]
    with pytest.raises(DataError, match=r"/data/deep er/: HTTP 503 \(2 tries\)"):
        remote(tries=2).files([".tar"])
    with pytest.raises(DataError, match=r"nowhere/? does not exist"):
        remote(f"{server.url}/nowhere").files([".tar"])


def test_unreachable_server_is_reported(remote):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        root = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DataError, match=rf"{root}/manifest\.json: Cannot connect .*\(2 tries\)"):
            remote(root, tries=2).files([".tar"])
        with pytest.raises(DataError, match=rf"{root}/train-0\.tar: Cannot connect .*\(2 tries\)"):
            remote(root, tries=2).local(shard(0))


def test_changed_file_is_fetched_again(server, remote):
    (before,) = remote().files(["train-0.tar"])
    assert remote().local(before).read_bytes() == SHARD
    server.contents["/data/train-0.tar"] = SHARD[::-1]
    (after,) = remote().files(["train-0.tar"])
    assert remote().local(after).read_bytes() == SHARD[::-1]


def test_credentials_are_sent_and_never_shown(server, remote, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    root = f"http://user:hush1@127.0.0.1:{server.server_port}/data?X-Amz-Signature=hush2%2Fa&b"
    server.faults["/data/train-1.tar"] = [403]
    server.faults["/data/train-2.tar"] = [503]
    server.faults["/data/train-3.tar"] = ["cut"]
    there = remote(root, tries=2)
    assert there.root == f"{server.url}/data"
    assert len(there.files([".tar"])) == 7
    there.local(shard(0))
    messages = [repr(there)]
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


def test_prefetch_is_in_order_and_used(server, remote):
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
def test_fork_opens_its_own_connections(server, remote):
    there = remote()
    files = there.files([".tar"])
    there.prefetch(files[4:6])
    there.local(files[1])

    def work():
        there.prefetch([files[3]])
        wait_for(lambda: server_has_sent(there, 3))
        return there.local(files[2]).read_bytes() == SHARD[1:]

    def server_has_sent(storage, number):
        return any(path.name.endswith(f"train-{number - 1}.tar") for path in storage.cache.folder.glob("*.tar"))

    assert succeeds_in_a_fork(work)
    assert there.local(files[0]).read_bytes() == b"val"
    assert server.requests["/data/train-1.tar"] == 1


def test_storage_can_be_pickled(remote):
    there = remote()
    there.prefetch([shard(0)])
    assert pickle.loads(pickle.dumps(there)).local(shard(1)).read_bytes() == SHARD[1:]
