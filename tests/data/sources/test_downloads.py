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


def test_archive_is_downloaded_once(archive, server, tmp_path):
    for _ in range(2):
        folder = unpacked("test", tmp_path / "new" / "root", "things", *archive, download=True)
        assert folder == tmp_path / "new" / "root" / "things"
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"a": b"A", "b": b"B"}
    assert server.downloads("things.tar.gz") == 1


def test_one_of_several_ranks_downloads(archive, server, tmp_path):
    def rank(_):
        return sorted(
            file.name for file in unpacked("test", tmp_path / "root", "things", *archive, download=True).iterdir()
        )

    with ThreadPoolExecutor(4) as ranks:
        assert list(ranks.map(rank, range(4))) == [["a", "b"]] * 4
    assert server.downloads("things.tar.gz") == 1


def test_existing_folder_is_used_without_writing(tmp_path):
    (tmp_path / "things").mkdir()
    assert (
        unpacked("test", tmp_path, "things", "http://127.0.0.1:9/things.tar.gz", "", download=False)
        == tmp_path / "things"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["things"]


@pytest.mark.parametrize("may_download", [True, False])
def test_existing_archive_is_unpacked(archive, server, tmp_path, may_download):
    (tmp_path / "things.tar.gz").write_bytes((server.folder / "things.tar.gz").read_bytes())
    assert (unpacked("test", tmp_path, "things", *archive, download=may_download) / "a").read_bytes() == b"A"
    assert not server.requests


def test_damaged_archive_is_replaced(archive, server, tmp_path):
    (tmp_path / "things.tar.gz").write_bytes(b"cut")
    assert (unpacked("test", tmp_path, "things", *archive, download=True) / "a").read_bytes() == b"A"
    assert server.downloads("things.tar.gz") == 1


def test_damaged_archive_without_download(archive, tmp_path):
    (tmp_path / "things.tar.gz").write_bytes(b"cut")
    with pytest.raises(DataError, match=rf"things\.tar\.gz is damaged: its MD5 is not {archive[1]}"):
        unpacked("test", tmp_path, "things", *archive, download=False)


def test_nothing_exists_and_no_download(archive, tmp_path):
    with pytest.raises(DataError, match=rf"set data\.download=true, or put {archive[0]} into {tmp_path}/root"):
        unpacked("test", tmp_path / "root", "things", *archive, download=False)
    assert not (tmp_path / "root").exists()


def nothing_is_left(root):
    return [path.name for path in root.iterdir() if path.is_dir()] == ["served"]


def test_without_a_network_the_error_says_what_to_put_where(tmp_path):
    url = "http://127.0.0.1:9/things.tar.gz"
    match = rf"{url} could not be downloaded .*refused.*put the file there as {tmp_path}/things\.tar\.gz \(MD5 abc\)"
    with pytest.raises(DataError, match=match):
        unpacked("test", tmp_path, "things", url, "abc", download=True)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_stalled_server_is_given_up(archive, server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_STALL_SECONDS", 0.2)
    server.stall.clear()
    with pytest.raises(DataError, match=r"could not be downloaded .*timed out"):
        unpacked("test", tmp_path, "things", *archive, download=True)


def test_wrong_content_is_not_unpacked(archive, tmp_path):
    with pytest.raises(DataError, match=r"could not be downloaded .*corrupted"):
        unpacked("test", tmp_path, "things", archive[0], "0" * 32, download=True)
    assert nothing_is_left(tmp_path)


def test_archive_with_another_folder(archive, tmp_path):
    with pytest.raises(DataError, match=r"things\.tar\.gz does not contain the folder others"):
        unpacked("test", tmp_path, "others", *archive, download=True)
    assert nothing_is_left(tmp_path)


def test_interrupted_unpacking_leaves_no_partial_folder(archive, tmp_path, monkeypatch):
    def interrupted(self, path, *_, **__):
        (tmp_path / "root" / path / "things").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpacked("test", tmp_path / "root", "things", *archive, download=True)
    assert len(list(unpacked("test", tmp_path / "root", "things", *archive, download=True).iterdir())) == 2


# CIFAR-10

RECORDS = 4
FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def record(label, seed):
    """A record, and its pixels [32, 32, 3]."""
    planes = np.random.default_rng(seed).integers(256, size=(3, 32, 32), dtype=np.uint8)
    return bytes([label]) + planes.tobytes(), np.stack(list(planes), axis=-1)


def records(file):
    return [record((file + number) % 10, (file, number)) for number in range(RECORDS)]


def files():
    return {f"cifar-10-batches-bin/{name}": b"".join(data for data, _ in records(i)) for i, name in enumerate(FILES)}


@pytest.fixture
def cifar10_served(server, monkeypatch):
    """A dataset in the same format with 4 records per file."""
    monkeypatch.setattr(downloads, "CIFAR10_RECORDS", RECORDS)
    monkeypatch.setattr(downloads, "CIFAR10_URL", f"{server.url}/cifar-10-binary.tar.gz")
    monkeypatch.setattr(downloads, "CIFAR10_MD5", write_archive(server.folder / "cifar-10-binary.tar.gz", files()))
    return server


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "CIFAR10_RECORDS", RECORDS)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    return tmp_path / "cifar-10-batches-bin"


def test_cifar10_records(cifar10):
    source = load("cifar10", root=str(cifar10.parent), download=False)
    assert source.classes[3] == "cat"
    for images, numbers in ((source.train, range(5)), (source.val, [5])):
        expected = [pixels for number in numbers for _, pixels in records(number)]
        assert len(images) == len(expected) == RECORDS * len(numbers)
        assert all(np.array_equal(images.read(index), pixels) for index, pixels in enumerate(expected))
        assert images.labels.tolist() == [(file + number) % 10 for file in numbers for number in range(RECORDS)]


def test_cifar10_is_downloaded(cifar10_served, tmp_path):
    source = load("cifar10", root=str(tmp_path / "data"))
    assert (len(source.train), len(source.val)) == (5 * RECORDS, RECORDS)
    assert cifar10_served.downloads("cifar-10-binary.tar.gz") == 1


def test_cifar10_is_the_binary_version():
    assert downloads.CIFAR10_URL.endswith("/cifar-10-binary.tar.gz"), "the Python version is pickled"
    assert downloads.CIFAR10_RECORDS * downloads._RECORD_BYTES == 30_730_000, "bytes of each file of the archive"


def test_cifar10_reads_no_pickle(cifar10, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr("pickle.Unpickler", refuse)
    assert len(load("cifar10", root=str(cifar10.parent)).val) == RECORDS


@pytest.mark.parametrize("change", [-1, 1, -3073])
@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
def test_cifar10_file_of_another_length(cifar10, name, change):
    data = (cifar10 / name).read_bytes()
    (cifar10 / name).write_bytes(data[:change] if change < 0 else data + b"x")
    with pytest.raises(DataError, match=rf"{name} has {len(data) + change:,} bytes instead of {len(data):,}: delete"):
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


@pytest.mark.parametrize(("size", "first"), [("160px", "ant"), ("320px", "bee"), ("full", "cow")])
def test_each_imagenette_is_downloaded_and_read_as_a_tree(imagenette_served, tmp_path, size, first):
    source = load("imagenette", root=str(tmp_path / "data"), size=size)
    assert source.classes == [first, "dog"]
    assert [name for name, _ in found(source.train, source.classes)] == [first, "dog"]
    assert source.val.labels.tolist() == [1]
    requests = len(imagenette_served.requests)
    again = load("imagenette", root=str(tmp_path / "data"), size=size, download=False)
    assert contents(again.train) == contents(source.train)
    assert len(imagenette_served.requests) == requests == 2, "torchvision asks for redirections first"


def test_imagenette_sizes_can_coexist(imagenette_served, tmp_path):
    for size in ("160px", "320px"):
        load("imagenette", root=str(tmp_path / "data"), size=size)
    assert load("imagenette", root=str(tmp_path / "data"), size="160px").classes == ["ant", "dog"]


def test_imagenette_archives_match_torchvision():
    assert downloads.IMAGENETTE == torchvision.datasets.Imagenette._ARCHIVES
