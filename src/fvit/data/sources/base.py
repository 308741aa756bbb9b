"""A data source: sets of images and their classes."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fvit.data.images import DataError, Images
from fvit.data.listing import is_folder


@dataclass(frozen=True)
class Source:
    """A training set, a validation set, the class names in label order, and a test set if there is one.

    Training chooses by the validation set, and nothing by the test set. `records` are files for the run directory, by
    name, that say which image is in which set where no folder says it. `real` are further labels of the validation
    images: any number for each.
    """

    train: Images
    val: Images
    classes: list[str]
    test: Images | None = None
    records: Mapping[str, str] = field(default_factory=dict)
    real: Sequence[Sequence[int]] | None = None

    @property
    def splits(self) -> dict[str, Images]:
        """The sets by name, ``train`` and ``val`` first."""
        return {"train": self.train, "val": self.val} | ({} if self.test is None else {"test": self.test})

    def __post_init__(self) -> None:
        for images in self.splits.values():
            invalid = (images.labels < 0) | (images.labels >= len(self.classes))
            if invalid.any():
                first = int(invalid.argmax())
                raise DataError(
                    f"{images.locate(first)} has label {images.labels[first]}, but the {len(self.classes)} classes of "
                    f"the training set have labels from 0 to {len(self.classes) - 1}"
                )

    @property
    def records_digest(self) -> str:
        """A digest of which images are held out of training, where no folder says it; else empty."""
        text = "".join(self.records.values())
        return hashlib.sha256(text.encode()).hexdigest() if text else ""

    def fingerprint(self) -> dict[str, Any]:
        """The numbers of images and a digest of their labels, which identify the data without reading it."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for images in self.splits.values():
            digest.update(np.ascontiguousarray(images.labels, dtype="<i4"))
        for text in self.records.values():
            digest.update(text.encode())
        counts = {f"{name}_images": len(images) for name, images in self.splits.items()}
        return {**counts, "labels": digest.hexdigest()}


def existing_folder(root: str | Path) -> Path:
    """The folder data.root, with ~ expanded; if it does not exist, the error suggests one with a similar name."""
    path = Path(root).expanduser()
    if not is_folder(path):
        raise FileNotFoundError(f"data.root={path} is not a folder{nearest_sibling(path)}")
    return path


def nearest_sibling(path: Path) -> str:
    """', did you mean DIR?' if the parent contains a folder with a similar name, or ''."""
    if not path.parent.is_dir():
        return ""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir() if p.is_dir()], n=1)
    return f", did you mean {path.parent / near[0]}?" if near else ""
