"""CIFAR-10, downloaded."""

from pathlib import Path

import numpy as np

from fvit.data.images import DataError, Pixels
from fvit.data.sources.base import Source
from fvit.data.sources.download import unpacked

# The binary version: the Python one is pickled, and reading a pickle runs what it says.
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RECORDS = 10_000  # a file
_SIDE = 32
_RECORD = 1 + 3 * _SIDE * _SIDE


def cifar10(root: str | None = None, download: bool = True) -> Source:
    """The 50,000 and 10,000 images of 32×32 pixels of CIFAR-10 (Krizhevsky 2009), 180 MB of memory.

    Args:
        root: the folder that holds `FOLDER`, or its archive, or takes the download.
        download: whether the network may be asked.

    Raises:
        DataError: `root` is None, the data cannot be had, or a file is damaged.
    """
    if root is None:
        raise DataError(f"data=cifar10 needs data.root: the folder that holds {FOLDER}, or into which to download it")
    folder = unpacked(Path(root).expanduser(), FOLDER, URL, MD5, download)
    batches = [_read(folder / f"data_batch_{number}.bin") for number in range(1, 6)]
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Source(train=Pixels(pixels, labels), val=Pixels(*_read(folder / "test_batch.bin")), classes=CLASSES)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 32, 32, 3] and labels [N] of a file of records: a label, then the red, green and blue planes."""
    if not path.is_file():
        raise DataError(f"{path} is missing; delete {path.parent}, and it is unpacked anew")
    size, expected = path.stat().st_size, RECORDS * _RECORD
    if size != expected:
        raise DataError(
            f"{path} has {size:,} bytes and should have {expected:,}; delete {path.parent}, and it is unpacked anew"
        )
    records = np.fromfile(path, dtype=np.uint8).reshape(RECORDS, _RECORD)
    labels = records[:, 0]
    if labels.max() >= len(CLASSES):
        record = int(labels.argmax())
        raise DataError(f"{path}, record {record}: label {labels[record]} is none of 0 … {len(CLASSES) - 1}")
    planes = records[:, 1:].reshape(RECORDS, 3, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels
