"""Storage on the Hugging Face Hub, against a server that imitates it."""

import hashlib
import json

import fsspec
import pytest

from fvit.data.images import DataError
from tests.data.remote import SHARD, succeeds_in_a_fork


@pytest.fixture
def hub(server, monkeypatch):
    """A server that imitates the Hub for one dataset, with the branch `main`."""
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
def test_dataset_is_listed_and_fetched(revision, hub, remote):
    there = remote(f"hf://datasets/owner/name{revision}/data")
    found = there.files([".tar"])
    assert [(file.name, file.size) for file in found] == [("train-0.tar", len(SHARD)), ("val.tar", 3)]
    assert found[0].sha256 == hashlib.sha256(SHARD).hexdigest()
    assert [file.version for file in found] == ["1" * 40, "2" * 40]
    hub.faults["/datasets/owner/name/resolve/main/data/train-0.tar"] = ["wrong", None]
    assert there.local(found[0]).read_bytes() == SHARD
    assert succeeds_in_a_fork(lambda: there.local(found[1]).read_bytes() == b"val")


@pytest.mark.parametrize(("status", "message"), [(404, "does not exist"), (403, r"access denied .*HF_TOKEN")])
def test_unavailable_dataset_is_reported(status, message, hub, remote):
    hub.faults["/datasets/owner/name/resolve/main/data/train-0.tar"] = [status]
    there = remote("hf://datasets/owner/name/data")
    with pytest.raises(DataError, match=message) as caught:
        there.local(there.files(["0.tar"])[0])
    assert "hush" not in str(caught.value)
