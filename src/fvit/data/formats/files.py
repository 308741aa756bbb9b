"""Images in individual files."""

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from fvit.data.faults import deadline
from fvit.data.images import BadImage, DataError, Images
from fvit.data.listing import entries, leads_back, report, some, walk

log = logging.getLogger(__name__)

EXTENSIONS = (*IMG_EXTENSIONS, ".avif")
"""In lower case."""

# Listing one of ImageNet's folders takes 2 ms of computing locally, but 50 ms of waiting on a network file system.
_THREADS = 16

# Folders relative to a root, the names of the images in them, and their label or labels.
Folders = Iterable[tuple[str, Sequence[str], int | np.ndarray]]


class FileImages(Images):
    """One image per file, in the order of `folders`. Takes 45 bytes of memory per image of ImageNet."""

    def __init__(self, root: str | Path, folders: Folders) -> None:
        self.root = "" if root == Path() else root  # show name.jpg instead of ./name.jpg
        # Names are concatenated, because millions of Python strings would take too much memory.
        self._folders, counts, names, lengths, labels = [], [], [], [np.zeros(1, dtype=np.int64)], []
        for folder, files, label in folders:
            encoded = [os.fsencode(name) for name in files]
            self._folders.append(folder)
            counts.append(len(encoded))
            names.append(b"".join(encoded))
            lengths.append(np.array([len(name) for name in encoded], dtype=np.int64))
            labels.append(np.full(len(encoded), label, dtype=np.int32))
        self._folder = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self._names, self._ends = b"".join(names), np.cumsum(np.concatenate(lengths))
        self.labels = np.concatenate([np.zeros(0, dtype=np.int32), *labels])

    def read(self, index: int) -> bytes:
        path = self.locate(index)
        try:
            with deadline(f"reading {path}"), open(path, "rb", buffering=0) as file:
                content = file.read()
        except FileNotFoundError:
            raise DataError(f"{path} existed when the run started and is now missing") from None
        if not content:
            raise BadImage(f"{path} is empty")
        return content

    def digest(self) -> str:
        """Of the paths, sizes and modification times."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels))
        for path in map(os.path.abspath, map(self.locate, range(len(self)))):
            status = os.stat(path)
            digest.update(os.fsencode(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        return digest.hexdigest()

    def locate(self, index: int) -> str:
        name = os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])
        return os.path.join(self.root, self._folders[self._folder[index]], name)


def list_tree(root: Path, classes: Sequence[str]) -> FileImages:
    """The images in root/CLASS, at any depth, with the class's index in `classes` as their label.

    They have the order of torchvision's ImageFolder. Hidden files and files without an image extension are skipped.
    """
    present = set(class_folders(root))
    labels = [label for label, name in enumerate(classes) if name in present]
    broken: list[str] = []
    with ThreadPoolExecutor(_THREADS) as threads:
        listed = threads.map(lambda label: list_images(root, broken, classes[label], label), labels)
        images = FileImages(root, (folder for folders in listed for folder in folders))
    report(sorted(broken))
    stray = image_names(root)
    if not len(images):
        outside = f" in folders, but {len(stray):,} besides them" if stray else ""
        raise FileNotFoundError(f"{root} contains no images{outside}; it needs CLASS/*.jpg (or .png, .webp, …)")
    if stray:
        log.warning("left out %d images of %s, which are in no folder of a class: %s", len(stray), root, some(stray))
    return images


def list_images(
    root: Path, broken: list[str], folder: str = "", label: int = 0, depth: int | None = None
) -> list[tuple[str, list[str], int]]:
    """`folder`, relative to `root`, and its subfolders, sorted by name; for `broken` and `depth` see `walk`."""
    return sorted((path, names, label) for path, names in walk(str(root), is_image, broken, folder, depth) if names)


def class_folders(split: Path) -> list[str]:
    """The sorted names of the folders in a split.

    Raises:
        DataError: a link leads nowhere, which may have been one to a class.
    """
    folders, _, dead = entries(str(split))
    if lost := next((why for name, why in dead.items() if not is_image(name)), None):
        raise DataError(f"{lost}: repair or remove it")
    return [name for name in folders if not leads_back(str(split), name)]


def image_names(folder: Path) -> list[str]:
    """The names of the images in `folder`, without subfolders, sorted."""
    broken: list[str] = []
    [(_, names)] = walk(str(folder), is_image, broken, depth=1)
    report(broken)
    return names


def is_image(name: str) -> bool:
    """Whether a file name has an image extension and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(EXTENSIONS)
