"""A tree of folders as in torchvision's ImageFolder."""

from pathlib import Path

import numpy as np

from fvit.data.formats.files import FileImages, class_folders, list_tree
from fvit.data.images import DataError
from fvit.data.listing import some
from fvit.data.sources.base import Source, existing_folder


def folder(root: str | Path | None = None) -> Source:
    """An ImageFolder tree: root/train/CLASS/*.jpg and root/val/CLASS/*.jpg, with the classes of train."""
    if root is None:
        raise ValueError("data=folder needs data.root: a folder with train/CLASS/*.jpg and val/CLASS/*.jpg")
    root = existing_folder(root)
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise FileNotFoundError(f"data.root={root} has no folder '{split}'; it needs train/CLASS/* and val/CLASS/*")
    return tree(root / "train", root / "val")


def tree(train: Path, val: Path) -> Source:
    """The source of two existing folders with a subfolder per class, of which val may lack some."""
    images, classes = training_tree(train)
    if unknown := sorted(set(class_folders(val)) - set(classes)):
        raise ValueError(
            f"{val} has {len(unknown)} classes that train does not have: {some(unknown)}. Remove or add them"
        )
    return Source(images, list_tree(val, classes), classes)


def training_tree(train: Path) -> tuple[FileImages, list[str]]:
    """The images of a folder with a subfolder per class, and the classes, none of which may be empty."""
    classes = class_folders(train)
    images = list_tree(train, classes)
    counts = np.bincount(images.labels, minlength=len(classes))
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise DataError(
            f"{train} has folders without images: {some(empty)}. Add images of these classes, or remove them"
        )
    return images, classes
