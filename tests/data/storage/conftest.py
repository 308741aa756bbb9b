import pytest

from fvit.data.storage.cache import Cache
from fvit.data.storage.remote import RemoteStorage
from tests.data.remote import SHARD, FaultyServer


@pytest.fixture
def server():
    contents = {f"/data/train-{number}.tar": SHARD[number:] for number in range(6)}
    contents |= {
        "/data/deep er/val-0.tar": b"val",
        "/data/.hidden.tar": b"",
        "/data/__MACOSX/val-1.tar": b"",
        "/other.tar": b"",
    }
    with FaultyServer(contents) as running:
        yield running


@pytest.fixture
def remote(server, tmp_path):
    def make(root=f"{server.url}/data", mib=4, **options):
        return RemoteStorage(root, Cache(tmp_path / "cache", mib / 2**10), **({"stall": 0.5, "pause": 0.01} | options))

    return make
