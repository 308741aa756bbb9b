"""Storage in a bucket, against a local S3 server."""

import os
import socket
import subprocess
import sys
import time

import fsspec
import pytest

from fvit.data.images import DataError
from fvit.data.storage.base import File
from fvit.data.storage.cache import Cache
from fvit.data.storage.remote import RemoteStorage
from tests.data.remote import SHARD, forks, manifest, shard, succeeds_in_a_fork, wait_for


@pytest.fixture(scope="module")
def s3():
    """URL of an S3 server with a few shards in the bucket `bucket`."""
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
def bucket(s3, monkeypatch, tmp_path):
    """Storage in that bucket, or through another server."""

    def make(root="s3://bucket/data", through=s3, **options):
        aws(monkeypatch, through)
        cache = Cache(tmp_path / "cache", 4 / 2**10)
        # On a busy machine, creating boto's client alone takes half a second.
        return RemoteStorage(root, cache, **({"stall": 2.0, "pause": 0.01} | options))

    yield make
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # with its connections


def aws(patch, url):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_ENDPOINT_URL", url)
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ACCESS_KEY_ID", "AKIDhush")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_bucket_is_listed_and_fetched(bucket):
    there = bucket()
    found = there.files([".tar"])
    assert [(file.name, file.size) for file in found] == [(f"train-{n}.tar", len(SHARD) - n) for n in range(3)]
    assert len({file.version for file in found}) == 3
    assert found[0].sha256 is None
    assert there.local(found[1]).read_bytes() == SHARD[1:]


def test_checksums_from_the_manifest(bucket, s3, monkeypatch):
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
    with pytest.raises(DataError, match=r"s3://bucket/prepared/b\.tar: wrong content"):
        there.local(found["b.tar"])


@pytest.mark.parametrize("root", ["s3://bucket/nowhere", "s3://no-such-bucket/data"])
def test_missing_bucket_or_folder_is_reported(root, bucket):
    with pytest.raises(DataError, match=rf"{root} does not exist"):
        bucket(root).files([".tar"])


def test_missing_object_is_not_retried(bucket):
    with pytest.raises(DataError, match=r"s3://bucket/data/train-9\.tar does not exist"):
        bucket(pause=60, stall=30).local(File("train-9.tar", 3))


def test_missing_keys_are_not_retried(bucket, monkeypatch, tmp_path):
    there = bucket(pause=60, stall=30)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(DataError, match=r"access denied .*AWS_PROFILE"):
        there.files([".tar"])


@pytest.mark.parametrize("fault", ["cut", pytest.param("stalled", marks=pytest.mark.slow)])
def test_transient_fault_is_retried(fault, bucket, server):
    server.contents["/bucket/data/train-0.tar"] = SHARD
    server.faults["/bucket/data/train-0.tar"] = [fault, None]
    assert bucket(through=server.url).local(shard(0)).read_bytes() == SHARD
    assert server.requests["/bucket/data/train-0.tar"] >= 2


@pytest.mark.parametrize(("fault", "tries"), [(503, 3), pytest.param("stalled", 2, marks=pytest.mark.slow), (403, 1)])
def test_persistent_fault_is_reported(fault, tries, bucket, server):
    server.contents["/bucket/data/train-0.tar"] = SHARD
    server.faults["/bucket/data/train-0.tar"] = [fault]
    start = time.monotonic()
    with pytest.raises(DataError, match=r"s3://bucket/data/train-0\.tar: \S") as caught:
        bucket(through=server.url, tries=max(tries, 2)).local(shard(0))
    assert "hush" not in str(caught.value)
    assert ("access denied" in str(caught.value)) == (fault == 403)
    assert 1 <= server.requests["/bucket/data/train-0.tar"] <= tries  # the timeout may pass before a request is sent
    assert time.monotonic() - start < 20


@forks
@pytest.mark.slow
def test_fork_opens_its_own_connections(bucket):
    there = bucket(stall=5)
    files = there.files([".tar"])
    there.local(files[0])
    assert succeeds_in_a_fork(lambda: there.local(files[1]).read_bytes() == SHARD[1:])
    assert succeeds_in_a_fork(lambda: [file.name for file in there.files(["2.tar"])] == ["train-2.tar"])
    assert there.local(files[2]).read_bytes() == SHARD[2:]
