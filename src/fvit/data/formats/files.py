"""Images that are files of their own, in folders."""

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from fvit.data.faults import Deadline
from fvit.data.images import BadImage, DataError, Images

# A network file system is waited for without the interpreter's lock, so threads help there: a folder of ImageNet takes
# it some 50 ms. A local one takes 2 ms of computing, for which threads only get into each other's way.
_THREADS = 16
_SLOW_SECONDS = 0.01
_FIRST = 8  # folders, which show what kind it is


class Listing(NamedTuple):
    """The images directly in one folder.

    Attributes:
        folder: relative to the root, empty for the root itself.
        names: of the files, joined without a separator: an object a name would be an object an image.
        lengths: of the names in bytes.
    """

    folder: str
    names: bytes
    lengths: np.ndarray


class FileImages(Images):
    """Files, each of them an image: 45 bytes of memory for one of ImageNet's.

    Args:
        root: of the tree.
        listings: of its folders; images are numbered in this order.
        labels: [N]: of the images, in this order.
    """

    def __init__(self, root: str | Path, listings: Sequence[Listing], labels: np.ndarray) -> None:
        self.root = root
        self.labels = np.asarray(labels, dtype=np.int32)
        self._folders = [listing.folder for listing in listings]
        self._folder = np.repeat(np.arange(len(listings), dtype=np.int32), [len(one.lengths) for one in listings])
        self._names = b"".join(listing.names for listing in listings)
        self._ends = np.cumsum(np.concatenate([[0], *(one.lengths for one in listings)]), dtype=np.int64)

    def read(self, index: int) -> bytes:
        """The file's content."""
        path = self.locate(index)
        try:
            with Deadline(f"reading {path}"), open(path, "rb", buffering=0) as file:
                content = file.read()
        except FileNotFoundError:
            raise DataError(
                f"{path} is missing and was there when the run began; has the data set been moved or changed?"
            ) from None
        if not content:
            raise BadImage(f"{path} is empty")
        return content

    def locate(self, index: int) -> str:
        """The file's path."""
        name = os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])
        return os.path.join(self.root, self._folders[self._folder[index]], name)


def list_tree(root: Path, classes: Sequence[str]) -> FileImages:
    """The images in a folder a class, at any depth, labelled by the place of the class in `classes`.

    They come in the order of torchvision's ImageFolder. Hidden files and folders are left out, and so are files
    without the name of an image.
    """
    present = {entry.name for entry in os.scandir(root) if entry.is_dir()}
    labels = [label for label, name in enumerate(classes) if name in present]
    start = time.perf_counter()
    of_class = [list_images(root, classes[label]) for label in labels[:_FIRST]]
    slow = time.perf_counter() - start > _SLOW_SECONDS * len(of_class)
    with ThreadPoolExecutor(_THREADS if slow else 1) as threads:
        of_class += threads.map(lambda label: list_images(root, classes[label]), labels[_FIRST:])
    counts = [sum(len(listing.lengths) for listing in listings) for listings in of_class]
    return FileImages(root, [one for listings in of_class for one in listings], np.repeat(labels, counts))


def list_images(root: Path, folder: str = "") -> list[Listing]:
    """A listing of `folder`, relative to `root`, and of each folder below it."""
    listings = []
    for path, folders, files in os.walk(os.path.join(root, folder), followlinks=True, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = sorted(name for name in files if is_image(name))
        if names:
            listings.append(listing(os.path.relpath(path, root), names))
    return sorted(listings, key=lambda one: one.folder)


def image_names(folder: Path) -> list[str]:
    """The names of the images directly in `folder`, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_image(entry.name) and entry.is_file())


def listing(folder: str, names: Iterable[str]) -> Listing:
    """The listing of these files."""
    encoded = [os.fsencode(name) for name in names]
    return Listing(folder, b"".join(encoded), np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))


def is_image(name: str) -> bool:
    """Whether a file of that name is taken for an image: it ends as one, and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(IMG_EXTENSIONS)


def _raise(error: OSError) -> None:
    # os.walk would go on without the folder.
    raise error
