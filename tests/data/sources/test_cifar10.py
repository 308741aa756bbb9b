import importlib
import sys

import numpy as np
import pytest

from fvit.data.images import DataError
from fvit.data.sources import load
from tests.data.sources.test_download import write_archive

# The package's attribute of that name is the function.
cifar10 = importlib.import_module("fvit.data.sources.cifar10")

pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will, by default:DeprecationWarning")
RECORDS = 4
FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def record(label, seed):
    """A record, and the pixels [32, 32, 3] in it."""
    planes = np.random.default_rng(seed).integers(256, size=(3, 32, 32), dtype=np.uint8)
    return bytes([label]) + planes.tobytes(), np.stack(list(planes), axis=-1)


def records(file):
    return [record((file + number) % 10, (file, number)) for number in range(RECORDS)]


def files():
    return {f"cifar-10-batches-bin/{name}": b"".join(data for data, _ in records(i)) for i, name in enumerate(FILES)}


@pytest.fixture
def served(server, monkeypatch):
    """A data set of the same form, with 4 records a file, at the constants' URL."""
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)
    monkeypatch.setattr(cifar10, "URL", f"{server.url}/cifar-10-binary.tar.gz")
    monkeypatch.setattr(cifar10, "MD5", write_archive(server.folder / "cifar-10-binary.tar.gz", files()))
    return server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    return tmp_path / "cifar-10-batches-bin"


def test_records_are_pixels_and_labels(folder):
    source = load("cifar10", root=str(folder.parent), download=False)
    assert source.classes[3] == "cat"
    for images, numbers in ((source.train, range(5)), (source.val, [5])):
        expected = [pixels for number in numbers for _, pixels in records(number)]
        assert len(images) == len(expected) == RECORDS * len(numbers)
        assert all(np.array_equal(images.read(index), pixels) for index, pixels in enumerate(expected))
        assert images.labels.tolist() == [(file + number) % 10 for file in numbers for number in range(RECORDS)]


def test_it_is_downloaded(served, tmp_path):
    source = load("cifar10", root=str(tmp_path / "data"))
    assert (len(source.train), len(source.val)) == (5 * RECORDS, RECORDS)
    assert served.downloads("cifar-10-binary.tar.gz") == 1


def test_the_constants_are_those_of_the_binary_version():
    assert cifar10.URL.endswith("/cifar-10-binary.tar.gz"), "the Python version is pickled"
    assert cifar10.RECORDS * cifar10._RECORD == 30_730_000, "bytes of each file of the archive"


def test_no_pickle_is_read(folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr("pickle.Unpickler", refuse)
    assert "torchvision.datasets.cifar" in sys.modules, "it is there, but not asked"
    assert len(load("cifar10", root=str(folder.parent)).val) == RECORDS


def test_no_download_when_told_so(served, tmp_path):
    with pytest.raises(DataError, match=r"set data\.download=true, or put http\S+/cifar-10-binary\.tar\.gz into"):
        load("cifar10", root=str(tmp_path / "data"), download=False)
    assert not served.requests


@pytest.mark.parametrize("change", [-1, 1, -3073])
@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
def test_a_file_of_another_length(folder, name, change):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:change] if change < 0 else data + b"x")
    with pytest.raises(
        DataError, match=rf"{name} has {len(data) + change:,} bytes and should have {len(data):,}; delete"
    ):
        load("cifar10", root=str(folder.parent))


def test_a_missing_file(folder):
    (folder / "data_batch_5.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_5\.bin is missing; delete .*cifar-10-batches-bin, and it is"):
        load("cifar10", root=str(folder.parent))


def test_a_label_that_is_no_class(folder):
    path = folder / "data_batch_2.bin"
    data = bytearray(path.read_bytes())
    data[3073] = 10
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"data_batch_2\.bin, record 1: label 10 is none of 0 … 9"):
        load("cifar10", root=str(folder.parent))
