import hashlib
import importlib
import tarfile

import pytest
import torchvision

from fvit.data.images import DataError
from fvit.data.sources import load
from tests.data.sources.conftest import contents, found

# The package's attribute of that name is the function.
imagenette = importlib.import_module("fvit.data.sources.imagenette")

pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will, by default:DeprecationWarning")


@pytest.fixture
def served(server, tree, monkeypatch):
    """Archives of the same form at the constants' URLs; each size has a first class of its own."""
    archives = {}
    for size, (url, _) in imagenette.ARCHIVES.items():
        name = url.rpartition("/")[2].removesuffix(".tgz")
        first = {"160px": "ant", "320px": "bee", "full": "cow"}[size]
        path = server.folder / f"{name}.tgz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tree(train=(first, "dog"), val=("dog",), root=f"made-{name}"), name)
        archives[size] = (f"{server.url}/{path.name}", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(imagenette, "ARCHIVES", archives)
    return server


@pytest.mark.parametrize(("size", "first"), [("160px", "ant"), ("320px", "bee"), ("full", "cow")])
def test_each_size_is_downloaded_and_read_as_a_tree(served, tmp_path, size, first):
    source = load("imagenette", root=str(tmp_path / "data"), size=size)
    assert source.classes == [first, "dog"]
    assert [name for name, _ in found(source.train, source.classes)] == [first, "dog"]
    assert source.val.labels.tolist() == [1]
    requests = len(served.requests)
    again = load("imagenette", root=str(tmp_path / "data"), size=size, download=False)
    assert contents(again.train) == contents(source.train)
    assert len(served.requests) == requests == 2, "torchvision asks for redirections first"


def test_sizes_lie_beside_each_other(served, tmp_path):
    for size in ("160px", "320px"):
        load("imagenette", root=str(tmp_path / "data"), size=size)
    assert load("imagenette", root=str(tmp_path / "data"), size="160px").classes == ["ant", "dog"]


def test_archives_are_those_of_torchvision():
    assert imagenette.ARCHIVES == torchvision.datasets.Imagenette._ARCHIVES


def test_no_download_when_told_so(served, tmp_path):
    with pytest.raises(DataError, match=r"set data\.download=true, or put http\S+/imagenette2-320\.tgz into"):
        load("imagenette", root=str(tmp_path / "data"), download=False)


def test_an_unknown_size(tmp_path):
    with pytest.raises(DataError, match=r"data\.size=64px is none of full, 320px, 160px"):
        load("imagenette", root=str(tmp_path), size="64px")
