"""A tree of folders as in torchvision's ImageFolder."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from fvit.config.wording import count
from fvit.data.formats.files import FileImages, class_folders, list_tree
from fvit.data.images import DataError, Images
from fvit.data.listing import is_folder, some
from fvit.data.sources.base import Source, existing_folder
from fvit.data.sources.split import RECORD, held_out, split

log = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test")
Share = Annotated[float, Field(gt=0, le=1)]


def folder(
    root: str | Path | None = None,
    val_split: Share | None = None,
    test_split: Share | Literal[0] | None = None,
    split_seed: NonNegativeInt = 0,
) -> Source:
    """An ImageFolder tree: root/train/CLASS/*.jpg and root/val/CLASS/*.jpg, with the classes of train.

    root/test/CLASS/*.jpg, if it exists, is the test set. Without these folders, or without all of them, sets are held
    out of the images for training, which may also be in root/CLASS.

    Args:
        root: a folder.
        val_split, test_split: the share of each class that is held out; 1 holds out all, to evaluate. A test split of 0
            is none.
        split_seed: another one holds out other images.
    """
    if root is None:
        raise ValueError("data=folder needs data.root: a folder with train/CLASS/*.jpg and val/CLASS/*.jpg")
    root = existing_folder(root)
    shares = {name: share for name, share in (("val", val_split), ("test", test_split)) if share}
    given = {name: root / name for name in _SPLITS if is_folder(root / name)}
    if both := next((name for name in shares if name in given), None):
        raise ValueError(
            f"data.{both}_split={shares[both]:g} has no effect: {given[both]} exists; leave one of them out"
        )
    if "val" not in {**given, **shares} or (given and "train" not in given):
        missing = next(name for name in ("train", "val") if name not in given)
        raise FileNotFoundError(
            f"data.root={root} has no folder '{missing}'; it needs train/CLASS/* and val/CLASS/*. Or set "
            f"data.val_split=0.1, which holds out a tenth of each class of {'train' if 'train' in given else 'CLASS/*'}"
        )
    train = given.pop("train", root)
    images, classes = training_tree(train)
    sets: dict[str, Images] = {"train": images}
    records = {}
    if shares:
        sets = split(images, classes, train, shares, split_seed)
        records = {RECORD: held_out(sets, train)}
    if "test" in given and not _has_labels(given["test"], classes):
        del given["test"]
    sets |= {name: _labelled(path, classes) for name, path in given.items()}
    return Source(**sets, classes=classes, records=records)


def tree(train: Path, val: Path) -> Source:
    """The source of two existing folders with a subfolder per class, of which val may lack some."""
    images, classes = training_tree(train)
    return Source(images, _labelled(val, classes), classes)


def _labelled(path: Path, classes: list[str]) -> FileImages:
    """The images in a folder with subfolders that are some of the training set's classes."""
    if unknown := sorted(set(class_folders(path)) - set(classes)):
        raise ValueError(
            f"{path} has {count(len(unknown), 'class', 'classes')} that train does not have: {some(unknown)}. Remove "
            "or add them"
        )
    return list_tree(path, classes)


def _has_labels(test: Path, classes: list[str]) -> bool:
    """Whether a test folder has subfolders of classes; that of a competition has not."""
    if set(class_folders(test)) & set(classes):
        return True
    log.warning("%s has no subfolders named after the classes of train, and is no test set", test)
    return False


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
