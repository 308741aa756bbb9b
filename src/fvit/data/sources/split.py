"""Holding out a share of each class, by the names of the files."""

import csv
import hashlib
import io
import os
from pathlib import Path

import numpy as np

from fvit.data.formats.files import FileImages
from fvit.data.images import DataError, Images, Subset

RECORD = "split.csv"
"""In the run directory: which files are held out, and in which set."""


def split(images: FileImages, classes: list[str], root: Path, shares: dict[str, float], seed: int) -> dict[str, Images]:
    """Divide images into ``train`` and the sets of `shares`, each with its share of every class.

    An image's place follows from `seed` and its name alone, neither from the other seeds of a run nor from the order in
    which files are listed: all runs of a sweep have the same sets, and images that are added later change few places.

    Args:
        images: below `root`.
        classes: the names of their labels.
        root: the folder from which names count.
        shares: of ``val`` and ``test``, in (0, 1]; together at most 1.
        seed: another one gives other sets.

    Raises:
        DataError: a class has too few images for every set to have one.
        ValueError: the shares add up to more than 1.
    """
    if sum(shares.values()) > 1:
        asked = " and ".join(f"data.{name}_split={share:g}" for name, share in shares.items())
        raise ValueError(f"{asked} add up to more than all images")
    names = [os.path.relpath(images.locate(index), root) for index in range(len(images))]
    keys = [hashlib.sha256(os.fsencode(f"{seed}/{Path(name).as_posix()}")).digest() for name in names]
    chosen: dict[str, list[int]] = {"train": [], **{name: [] for name in shares}}
    for label, members in enumerate(_by_label(images.labels, len(classes))):
        order = sorted(members, key=keys.__getitem__)
        counts = {name: max(1, round(share * len(order))) for name, share in shares.items()}
        if sum(counts.values()) > len(order) - (sum(shares.values()) < 1):
            raise DataError(
                f"class {classes[label]} has {len(order)} of the images in {root}, too few for a part in each of "
                f"{', '.join(chosen)}: add images of it, or remove it"
            )
        # Validation from one end and test from the other, so that neither depends on the share of the other.
        held = counts.get("val", 0)
        tested = len(order) - counts.get("test", 0)
        parts = {"val": order[:held], "train": order[held:tested], "test": order[tested:]}
        for name, indices in chosen.items():
            indices += parts[name]
    return {name: Subset(images, np.array(sorted(indices), dtype=np.int64)) for name, indices in chosen.items()}


def held_out(splits: dict[str, Images], root: Path) -> str:
    """The names of all images but those for training, relative to `root`, as CSV: split, file."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["split", "file"])
    for name, images in splits.items():
        if name != "train":
            table.writerows([name, os.path.relpath(images.locate(index), root)] for index in range(len(images)))
    # A file name may be no UTF-8.
    return os.fsencode(text.getvalue()).decode("utf-8", errors="backslashreplace")


def _by_label(labels: np.ndarray, count: int) -> list[list[int]]:
    """The indices of each label, ascending."""
    order = np.argsort(labels, kind="stable")
    return [part.tolist() for part in np.split(order, np.searchsorted(labels[order], np.arange(1, count)))]
