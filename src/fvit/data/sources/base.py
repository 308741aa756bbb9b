"""What every source gives, and what sources of a folder share."""

import difflib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fvit.data.images import DataError, Images


@dataclass(frozen=True)
class Source:
    """A training set, a validation set, and the class names in the order of the labels."""

    train: Images
    val: Images
    classes: list[str]

    def facts(self) -> dict[str, Any]:
        """What tells one set of images from another without reading them: how many, and a digest of their labels.

        Raises:
            DataError: a label is beyond the classes.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for images in (self.train, self.val):
            beyond = (images.labels < 0) | (images.labels >= len(self.classes))
            if beyond.any():
                first = int(beyond.argmax())
                raise DataError(
                    f"{images.locate(first)} has label {images.labels[first]}; there are {len(self.classes)} classes"
                )
            digest.update(np.ascontiguousarray(images.labels, dtype="<i4"))
        return {"train_images": len(self.train), "val_images": len(self.val), "labels": digest.hexdigest()}


def existing_folder(root: str | Path) -> Path:
    """The folder that data.root names, with ~ resolved.

    Raises:
        FileNotFoundError: it is none; the text suggests a sibling whose name is close.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"data.root={path} is not a folder{nearest_sibling(path)}")
    return path


def nearest_sibling(path: Path) -> str:
    """', did you mean DIR?', a folder beside `path` whose name is close, or ''."""
    if not path.parent.is_dir():
        return ""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir() if p.is_dir()], n=1)
    return f", did you mean {path.parent / near[0]}?" if near else ""
