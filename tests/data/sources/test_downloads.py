import hashlib
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torchvision

from fvit.data.images import DataError
from fvit.data.sources import downloads, load
from fvit.data.sources.downloads import unpacked
from tests.data.sources.conftest import contents, found

# torchvision calls extractall without a filter.
pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will, by default:DeprecationWarning")


def write_archive(path, files):
    """Write a .tar.gz of these files, and return its MD5."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def archive(server):
    """URL and MD5 of an archive with things/a and things/b."""
    md5 = write_archive(server.folder / "things.tar.gz", {"things/a": b"A", "things/b": b"B"})
    return f"{server.url}/things.tar.gz", md5


def things(root, url, md5, name="things", download=True):
    return {file.name: file.read_bytes() for file in unpacked("test", root, name, url, md5, download).iterdir()}


def test_archive_is_downloaded_once(archive, server, tmp_path):
    for _ in range(2):
        assert things(tmp_path / "new" / "root", *archive) == {"a": b"A", "b": b"B"}
    with ThreadPoolExecutor(4) as ranks:
        assert list(ranks.map(lambda _: len(things(tmp_path / "root", *archive)), range(4))) == [2] * 4
    assert server.downloads("things.tar.gz") == 2, "one for each root"


def test_existing_folder_is_used_without_writing(tmp_path):
    (tmp_path / "things").mkdir()
    assert things(tmp_path, "http://127.0.0.1:9/things.tar.gz", "", download=False) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["things"]


@pytest.mark.parametrize("download", [True, False])
def test_existing_archive_is_unpacked(archive, server, tmp_path, download):
    (tmp_path / "things.tar.gz").write_bytes((server.folder / "things.tar.gz").read_bytes())
    assert things(tmp_path, *archive, download=download)["a"] == b"A"
    assert not server.requests


def test_damaged_archive_is_replaced_or_reported(archive, server, tmp_path):
    (tmp_path / "things.tar.gz").write_bytes(b"cut")
    with pytest.raises(DataError, match=rf"things\.tar\.gz is damaged: its MD5 is not {archive[1]}"):
        things(tmp_path, *archive, download=False)
    assert things(tmp_path, *archive)["a"] == b"A"
    assert server.downloads("things.tar.gz") == 1


def test_nothing_exists_and_no_download(archive, tmp_path):
    with pytest.raises(DataError, match=rf"set data\.download=true, or put {archive[0]} into {tmp_path}/root"):
        things(tmp_path / "root", *archive, download=False)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "http://127.0.0.1:9/things.tar.gz"}, r"refused.*put the file there as .*/things\.tar\.gz \(MD5 "),
        ({"md5": "0" * 32}, r"could not be downloaded .*corrupted"),
        ({"name": "others"}, r"things\.tar\.gz does not contain the folder others"),
    ],
)
def test_failure_leaves_no_folder(archive, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        things(**{"root": tmp_path / "root", "url": archive[0], "md5": archive[1], **change})
    assert not [path for path in (tmp_path / "root").iterdir() if path.is_dir()]


def test_stalled_server_is_given_up(archive, server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_STALL_SECONDS", 0.2)
    server.stall.clear()
    with pytest.raises(DataError, match=r"could not be downloaded .*timed out"):
        things(tmp_path, *archive)


def test_interrupted_unpacking_leaves_no_partial_folder(archive, tmp_path, monkeypatch):
    def interrupted(self, path, *_, **__):
        (tmp_path / "root" / path / "things").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            things(tmp_path / "root", *archive)
    assert len(things(tmp_path / "root", *archive)) == 2


# CIFAR-10

RECORDS = 4
FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def records(file):
    """The records of a file, each with its pixels [32, 32, 3]."""
    for number in range(RECORDS):
        planes = np.random.default_rng((file, number)).integers(256, size=(3, 32, 32), dtype=np.uint8)
        yield bytes([(file + number) % 10]) + planes.tobytes(), np.stack(list(planes), axis=-1)


@pytest.fixture
def cifar10(server, monkeypatch, tmp_path):
    """A dataset in the same format with 4 records per file, downloaded into a folder."""
    files = {f"cifar-10-batches-bin/{name}": b"".join(data for data, _ in records(i)) for i, name in enumerate(FILES)}
    monkeypatch.setattr(downloads, "CIFAR10_RECORDS", RECORDS)
    monkeypatch.setattr(downloads, "CIFAR10_URL", f"{server.url}/cifar-10-binary.tar.gz")
    monkeypatch.setattr(downloads, "CIFAR10_MD5", write_archive(server.folder / "cifar-10-binary.tar.gz", files))
    load("cifar10", root=str(tmp_path / "data"))
    return tmp_path / "data" / "cifar-10-batches-bin"


def test_cifar10(cifar10):
    source = load("cifar10", root=str(cifar10.parent), download=False)
    assert source.classes[3] == "cat"
    for images, numbers in ((source.train, range(5)), (source.val, [5])):
        expected = [pixels for number in numbers for _, pixels in records(number)]
        assert len(images) == len(expected) == RECORDS * len(numbers)
        assert all(np.array_equal(images.read(index), pixels) for index, pixels in enumerate(expected))
        assert images.labels.tolist() == [(file + number) % 10 for file in numbers for number in range(RECORDS)]


def test_cifar10_is_the_binary_version():
    assert downloads.CIFAR10_URL.endswith("/cifar-10-binary.tar.gz"), "the Python version is pickled"
    assert downloads.CIFAR10_RECORDS * downloads._RECORD_BYTES == 30_730_000, "bytes of each file of the archive"


@pytest.mark.parametrize("change", [-1, 1, -3073])
def test_cifar10_file_of_another_length(cifar10, change):
    path = cifar10 / "data_batch_3.bin"
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"x")
    with pytest.raises(DataError, match=rf"3\.bin has {len(data) + change:,} bytes instead of {len(data):,}: delete"):
        load("cifar10", root=str(cifar10.parent))


# Imagenette


@pytest.fixture
def imagenette_served(server, tree, monkeypatch):
    """Archives in the same format; each size has another first class."""
    archives = {}
    for size, (url, _) in downloads.IMAGENETTE.items():
        name = url.rpartition("/")[2].removesuffix(".tgz")
        first = {"160px": "ant", "320px": "bee", "full": "cow"}[size]
        path = server.folder / f"{name}.tgz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tree(train=(first, "dog"), val=("dog",), root=f"made-{name}"), name)
        archives[size] = (f"{server.url}/{path.name}", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(downloads, "IMAGENETTE", archives)
    return server


def test_each_imagenette_is_downloaded_and_read_as_a_tree(imagenette_served, tmp_path):
    for size, first in (("160px", "ant"), ("320px", "bee"), ("full", "cow")):
        source = load("imagenette", root=str(tmp_path / "data"), size=size)
        assert source.classes == [first, "dog"]
        assert [name for name, _ in found(source.train, source.classes)] == [first, "dog"]
        assert source.val.labels.tolist() == [1]
        requests = len(imagenette_served.requests)
        again = load("imagenette", root=str(tmp_path / "data"), size=size, download=False)
        assert contents(again.train) == contents(source.train)
        assert len(imagenette_served.requests) == requests


def test_imagenette_archives_match_torchvision():
    assert downloads.IMAGENETTE == torchvision.datasets.Imagenette._ARCHIVES
