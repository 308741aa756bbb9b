"""What tests of remote places share: a server with shards, and places behind its URL."""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fvit.data.storage.base import File
from fvit.data.storage.cache import Cache
from fvit.data.storage.remote import RemoteStorage
from tests.data.remote_server import FaultyServer

SHARD = bytes(range(256)) * 512
fork = multiprocessing.get_context("fork")
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # as loader workers are

Open = Callable[..., RemoteStorage]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    contents = {f"/data/train-{number}.tar": SHARD[number:] for number in range(6)}
    with FaultyServer(
        contents | {"/data/deep er/val-0.tar": b"val", "/data/.hidden.tar": b"", "/other.tar": b""}
    ) as it:
        yield it


@pytest.fixture
def remote(server: FaultyServer, tmp_path: Path) -> Open:
    def make(root: str = f"{server.url}/data", mib: float = 4, **options: float) -> RemoteStorage:
        return RemoteStorage(root, Cache(tmp_path / "cache", mib / 2**10), **({"stall": 0.5, "pause": 0.01} | options))

    return make


def manifest(index: bytes, **shards: bytes) -> bytes:
    """What fvit-prepare would write of these files: to train and to validate with alike, an image a shard."""

    def described(name: str, content: bytes) -> dict[str, object]:
        return {"name": f"{name}.tar", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    split = {
        "images": len(shards),
        "per_class": [len(shards)],
        "shards": [described(name, content) | {"images": 1} for name, content in shards.items()],
        "index": described("index", index),
        "skipped": [],
    }
    splits = {"train": split, "val": split}
    return json.dumps(
        {"format": "fvit-shards", "version": 1, "classes": ["ant"], "settings": {}, "splits": splits}
    ).encode()


def shard(number: int, **known: str) -> File:
    return File(f"train-{number}.tar", len(SHARD) - number, **known)


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
