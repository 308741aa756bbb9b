"""Remote places, against a real HTTP server and a real S3 server, with faults."""

import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from fvit.data.cache import Cache
from fvit.data.images import DataError
from fvit.data.place import File
from fvit.data.remote import Remote
from tests.data.remote_server import FaultyServer

SHARD = bytes(range(256)) * 512
fork = multiprocessing.get_context("fork")
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # as loader workers are

Open = Callable[..., Remote]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    contents = {f"/data/train-{number}.tar": SHARD[number:] for number in range(6)}
    with FaultyServer(
        contents | {"/data/deep er/val-0.tar": b"val", "/data/.hidden.tar": b"", "/other.tar": b""}
    ) as it:
        yield it


@pytest.fixture
def remote(server: FaultyServer, tmp_path: Path) -> Open:
    def make(root: str = f"{server.url}/data", mib: float = 4, **options: float) -> Remote:
        return Remote(root, Cache(tmp_path / "cache", mib / 2**10), **({"stall": 0.5, "pause": 0.01} | options))

    return make


def manifest(**entries: bytes) -> bytes:
    shards = [
        {"name": f"{name}.tar", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in entries.items()
    ]
    return json.dumps(
        {"format": "fvit-shards", "splits": {"train": {"shards": shards[1:], "index": shards[0]}}}
    ).encode()


def shard(number: int, **known: str) -> File:
    return File(f"train-{number}.tar", len(SHARD) - number, **known)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an S3 server that holds a few shards in the bucket `bucket`."""
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        aws(patch, url)
        wait_for(lambda: answers(port), 30)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for number in range(3):
            client.put_object(Bucket="bucket", Key=f"data/train-{number}.tar", Body=SHARD[number:])
        client.put_object(Bucket="bucket", Key="data/.hidden.tar", Body=b"")
        client.put_object(Bucket="bucket", Key="database/other.tar", Body=b"")
        client.close()
    yield url
    process.terminate()
    process.wait()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Open]:
    """A place in that bucket, reached directly or through another server's URL."""

    def make(root: str = "s3://bucket/data", through: str = s3, **options: float) -> Remote:
        aws(monkeypatch, through)
        cache = Cache(tmp_path / "cache", 4 / 2**10)
        # On a busy machine, boto's client alone takes half a second to make.
        return Remote(root, cache, **({"stall": 2.0, "pause": 0.01} | options))

    yield make
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # with its connections


def aws(patch: pytest.MonkeyPatch, url: str) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_ENDPOINT_URL", url)
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ACCESS_KEY_ID", "AKIDhush")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def succeeds_in_a_fork(work: Callable[[], bool]) -> bool:
    process = fork.Process(target=lambda: os._exit(0 if work() else 1))
    process.start()
    process.join(20)
    alive = process.is_alive()
    process.kill()
    return not alive and process.exitcode == 0


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
    server.contents["/data/manifest.json"] = b'{"manifest_version": 3}'
    assert len(remote().files([".tar"])) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", r"manifest\.json is damaged"),
        (b'{"format": "fvit-shards"}', r"manifest\.json is damaged .*splits"),
        (manifest(index=b"i").replace(b"index.tar", b"../../index.tar"), r"which lies outside of"),
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
    there.ahead([shard(2), shard(1), shard(0)])
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
    there.ahead(files[4:6])
    there.local(files[1])

    def work() -> bool:
        there.ahead([files[3]])
        wait_for(lambda: server_has_sent(there, 3))
        return there.local(files[2]).read_bytes() == SHARD[1:]

    def server_has_sent(place: Remote, number: int) -> bool:
        return any(path.name.endswith(f"train-{number - 1}.tar") for path in place.cache.folder.glob("*.tar"))

    assert succeeds_in_a_fork(work)
    assert there.local(files[0]).read_bytes() == b"val"
    assert server.requests["/data/train-1.tar"] == 1


def test_a_place_can_be_pickled(remote: Open) -> None:
    there = remote()
    there.ahead([shard(0)])
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


def test_a_bucket_is_listed_and_fetched(bucket: Open) -> None:
    there = bucket()
    found = there.files([".tar"])
    assert [(file.name, file.size) for file in found] == [(f"train-{n}.tar", len(SHARD) - n) for n in range(3)]
    assert len({file.version for file in found}) == 3
    assert found[0].sha256 is None
    assert there.local(found[1]).read_bytes() == SHARD[1:]


def test_a_manifest_in_a_bucket_gives_the_checksums(bucket: Open, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = bucket("s3://bucket/prepared")
    files = {"index.tar": b"i", "a.tar": b"aa", "b.tar": b"bbb", "c.tar": b"cccc"}
    files["manifest.json"] = manifest(index=b"i", a=b"aa", b=b"BBB")
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    for name, content in files.items():
        system.pipe_file(f"bucket/prepared/{name}", content)
    found = {file.name: file for file in there.files([".tar"])}
    assert list(found) == ["a.tar", "b.tar", "c.tar", "index.tar"]
    assert found["c.tar"].sha256 is None
    assert there.local(found["a.tar"]).read_bytes() == b"aa"
    with pytest.raises(DataError, match=r"s3://bucket/prepared/b\.tar: wrong bytes"):
        there.local(found["b.tar"])


@pytest.mark.parametrize("root", ["s3://bucket/nowhere", "s3://no-such-bucket/data"])
def test_a_bucket_or_folder_that_is_not_there_is_told(root: str, bucket: Open) -> None:
    with pytest.raises(DataError, match=rf"(nothing at {root}|{root} does not exist)"):
        bucket(root).files([".tar"])


def test_an_object_that_is_gone_is_told_at_once(bucket: Open) -> None:
    with pytest.raises(DataError, match=r"s3://bucket/data/train-9\.tar does not exist"):
        bucket(pause=60, stall=30).local(File("train-9.tar", 3))


def test_no_keys_are_told_at_once(bucket: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = bucket(pause=60, stall=30)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(DataError, match=r"access denied .*AWS_PROFILE"):
        there.files([".tar"])


@pytest.mark.parametrize("fault", [503, "cut", "stalled", "short"])
def test_an_s3_fault_that_passes_is_tried_again(fault: str | int, bucket: Open, server: FaultyServer) -> None:
    server.contents["/bucket/data/train-0.tar"] = SHARD
    server.faults["/bucket/data/train-0.tar"] = [fault, None]
    assert bucket(through=server.url).local(shard(0)).read_bytes() == SHARD
    assert server.requests["/bucket/data/train-0.tar"] >= 2


@pytest.mark.parametrize(
    ("fault", "tries"), [(503, 3), ("cut", 3), pytest.param("stalled", 2, marks=pytest.mark.slow), (403, 1)]
)
def test_an_s3_fault_that_stays_is_told(fault: str | int, tries: int, bucket: Open, server: FaultyServer) -> None:
    server.contents["/bucket/data/train-0.tar"] = SHARD
    server.faults["/bucket/data/train-0.tar"] = [fault]
    start = time.monotonic()
    with pytest.raises(DataError, match=r"s3://bucket/data/train-0\.tar: \S") as caught:
        bucket(through=server.url, tries=max(tries, 2)).local(shard(0))
    assert "hush" not in str(caught.value)
    assert ("access denied" in str(caught.value)) == (fault == 403)
    assert 1 <= server.requests["/bucket/data/train-0.tar"] <= tries  # the deadline can pass before a request is out
    assert time.monotonic() - start < 20


@forks
def test_a_fork_reads_a_bucket_through_connections_of_its_own(bucket: Open) -> None:
    there = bucket(stall=5)
    files = there.files([".tar"])
    there.local(files[0])
    assert succeeds_in_a_fork(lambda: there.local(files[1]).read_bytes() == SHARD[1:])
    assert succeeds_in_a_fork(lambda: [file.name for file in there.files(["2.tar"])] == ["train-2.tar"])
    assert there.local(files[2]).read_bytes() == SHARD[2:]


@pytest.fixture
def hub(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> FaultyServer:
    """A server that answers as the Hub does for one data set, in its branch `main`."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"  # as HF_ENDPOINT would, read at import
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HF_TOKEN", "hf_hush")
    fsspec.get_filesystem_class("hf").clear_instance_cache()
    lfs = {"oid": hashlib.sha256(SHARD).hexdigest(), "size": len(SHARD), "pointerSize": 134}
    tree = [
        {"type": "file", "oid": "1" * 40, "size": len(SHARD), "path": "data/train-0.tar", "lfs": lfs},
        {"type": "file", "oid": "2" * 40, "size": 3, "path": "data/val.tar"},
    ]
    info = {
        "id": "owner/name",
        "sha": "3" * 40,
        "siblings": [],
        "private": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
    }
    api = "/api/datasets/owner/name"
    server.contents[f"{api}/revision/main"] = server.contents[api] = json.dumps(info).encode()
    server.contents[f"{api}/tree/main/data"] = json.dumps(tree).encode()
    server.contents["/datasets/owner/name/resolve/main/data/train-0.tar"] = SHARD
    server.contents["/datasets/owner/name/resolve/main/data/val.tar"] = b"val"
    return server


@pytest.mark.parametrize("revision", ["", "@main"])
def test_a_data_set_of_the_hub_is_listed_and_fetched(revision: str, hub: FaultyServer, remote: Open) -> None:
    there = remote(f"hf://datasets/owner/name{revision}/data")
    found = there.files([".tar"])
    assert [(file.name, file.size) for file in found] == [("train-0.tar", len(SHARD)), ("val.tar", 3)]
    assert found[0].sha256 == hashlib.sha256(SHARD).hexdigest()
    assert [file.version for file in found] == ["1" * 40, "2" * 40]
    hub.faults["/datasets/owner/name/resolve/main/data/train-0.tar"] = ["wrong", None]
    assert there.local(found[0]).read_bytes() == SHARD
    assert succeeds_in_a_fork(lambda: there.local(found[1]).read_bytes() == b"val")


@pytest.mark.parametrize(("status", "message"), [(404, "does not exist"), (403, r"access denied .*HF_TOKEN")])
def test_a_data_set_that_cannot_be_had_is_told(status: int, message: str, hub: FaultyServer, remote: Open) -> None:
    hub.faults["/datasets/owner/name/resolve/main/data/train-0.tar"] = [status]
    there = remote("hf://datasets/owner/name/data")
    with pytest.raises(DataError, match=message) as caught:
        there.local(there.files(["0.tar"])[0])
    assert "hush" not in str(caught.value)
