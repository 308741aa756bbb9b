"""Small datasets, downloaded once per machine: CIFAR-10 and Imagenette."""

import socket
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from fvit.data.images import DataError, Pixels
from fvit.data.sources.base import Source
from fvit.data.sources.folder import tree

# The binary version. The Python version is pickled, and unpickling can run any code.
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR10_RECORDS = 10_000  # per file; a record is a label and the red, green and blue planes
_SIDE = 32
_RECORD_BYTES = 1 + 3 * _SIDE * _SIDE

# URL and MD5 as in torchvision.datasets.Imagenette. The folder in an archive has the archive's name.
IMAGENETTE = {
    "full": ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz", "fe2fc210e6bb7c5664d602c3cd71e612"),
    "320px": ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3"),
    "160px": ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz", "e793b78cc4c9e9a4ccc0c1155377a412"),
}

# A server that sends nothing for this long is given up.
_STALL_SECONDS = 60.0


def cifar10(root: str | None = None, download: bool = True) -> Source:
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 images of 32×32 pixels, in 180 MB of memory."""
    name = "cifar-10-batches-bin"
    folder = unpacked("cifar10", root, name, CIFAR10_URL, CIFAR10_MD5, download)
    batches = [_read_records(folder / f"data_batch_{number}.bin") for number in range(1, 6)]
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Source(Pixels(pixels, labels), Pixels(*_read_records(folder / "test_batch.bin")), CIFAR10_CLASSES)


def _read_records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 32, 32, 3] and labels [N]."""
    size, expected = path.stat().st_size if path.is_file() else 0, CIFAR10_RECORDS * _RECORD_BYTES
    if size != expected:
        raise DataError(f"{path} has {size:,} bytes instead of {expected:,}: delete {path.parent} to unpack it again")
    records = np.fromfile(path, dtype=np.uint8).reshape(-1, _RECORD_BYTES)
    planes = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0]


def imagenette(
    root: str | None = None, size: Literal["320px", "160px", "full"] = "320px", download: bool = True
) -> Source:
    """Ten easily distinguished classes of ImageNet (Howard 2019): 9,469 and 3,925 images, resized to a shorter side."""
    url, md5 = IMAGENETTE[size]
    folder = unpacked("imagenette", root, Path(url).stem, url, md5, download)
    return tree(folder / "train", folder / "val")


def unpacked(source: str, root: str | None, name: str, url: str, md5: str, download: bool) -> Path:
    """The folder root/name, which appears when it is complete: one process works and the others wait.

    It is the only folder in the archive at `url`, which is not downloaded if it is already in `root`.
    """
    if root is None:
        raise DataError(f"data={source} needs data.root: a folder that contains {name}, or to download it into")
    parent = Path(root).expanduser()
    target, archive = parent / name, parent / url.rpartition("/")[2]
    if target.is_dir():
        return target
    if not download and not archive.is_file():
        raise DataError(f"{target} does not exist; set data.download=true, or put {url} into {parent}")
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f".{name}.lock"):
        if not target.is_dir():
            if not download and not check_integrity(archive, md5):
                raise DataError(f"{archive} is damaged: its MD5 is not {md5}; replace it with {url}")
            _unpack(url, md5, archive, target)
    return target


def _unpack(url: str, md5: str, archive: Path, target: Path) -> None:
    parent = archive.parent
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{target.name}.") as temporary:
        try:
            with given_up_when_stalled():
                download_and_extract_archive(url, str(parent), temporary, md5=md5)
        except (OSError, HTTPException, RuntimeError, tarfile.TarError) as error:  # RuntimeError: a wrong MD5
            raise DataError(
                f"{url} could not be downloaded and unpacked into {parent}: {error}. "
                f"Without a network, put the file there as {archive} (MD5 {md5})"
            ) from error
        folder = Path(temporary, target.name)
        if not folder.is_dir():
            raise DataError(f"{archive} does not contain the folder {target.name}")
        folder.rename(target)


@contextmanager
def given_up_when_stalled() -> Iterator[None]:
    """Give a server up that sends nothing for a minute, with a TimeoutError: torchvision sets no limit."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
