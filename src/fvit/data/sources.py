"""Where images come from: every source gives a training set and a validation set of (PIL image, label)."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import FakeData, ImageFolder


@dataclass(frozen=True)
class Source:
    """Two map-style sets of (PIL image, label), and the class names in the order of the labels."""

    train: Dataset
    val: Dataset
    classes: list[str]


def load(name: str, **options: Any) -> Source:
    """The source called `name`, built with its own options.

    Raises:
        ValueError: unknown source; the text lists the known ones.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data source '{name}'; known: {', '.join(SOURCES)}")
    return SOURCES[name](**options)


def digits() -> Source:
    """The 1,797 handwritten digits of 8×8 pixels that ship with scikit-learn (UCI Optdigits), split 80:20 by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    # Grey levels run from 0 to 16.
    images = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    train, val = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    return Source(
        train=_Arrays(images[train], labels[train]),
        val=_Arrays(images[val], labels[val]),
        classes=[str(digit) for digit in range(10)],
    )


class _Arrays(Dataset):
    """Grey images held in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), self.labels[index]


def folder(root: str | Path | None = None) -> Source:
    """An ImageFolder tree: root/train/CLASS/*.jpg and root/val/CLASS/*.jpg. Labels follow the training classes.

    Raises:
        FileNotFoundError: the root or one of its two folders is missing or holds no image.
        ValueError: `root` is None, or a class occurs in val that train lacks.
    """
    if root is None:
        raise ValueError("data=folder needs data.root: a folder that holds train/CLASS/*.jpg and val/CLASS/*.jpg")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"data.root={root} is not a folder{_nearest_sibling(root)}")
    names = {split: _class_folders(root, split) for split in ("train", "val")}
    classes = sorted(names["train"])
    strangers = sorted(names["val"] - names["train"])
    if strangers:
        shown = ", ".join(strangers[:5]) + (", …" if len(strangers) > 5 else "")
        raise ValueError(
            f"{root / 'val'} holds {len(strangers)} classes that train lacks: {shown}. "
            "Remove them, or add their training images"
        )
    indices = {name: label for label, name in enumerate(classes)}
    return Source(train=_Folder(root / "train", indices), val=_Folder(root / "val", indices), classes=classes)


def _class_folders(root: Path, split: str) -> set[str]:
    folder = root / split
    if not folder.is_dir():
        raise FileNotFoundError(f"data.root={root} has no folder '{split}'; it needs train/CLASS/* and val/CLASS/*")
    names = {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    if not names:
        raise FileNotFoundError(f"{folder} holds no images; it needs CLASS/*.jpg (or .png, .webp, …)")
    return names


class _Folder(ImageFolder):
    """An ImageFolder whose labels are given, so that a class missing in val does not shift those behind it."""

    def __init__(self, root: Path, class_to_idx: dict[str, int]) -> None:
        self._given = class_to_idx
        super().__init__(root, allow_empty=True)
        if not self.samples:
            raise FileNotFoundError(f"{root} holds no images; it needs CLASS/*.jpg (or .png, .webp, …)")

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        present = {entry.name for entry in Path(directory).iterdir() if entry.is_dir()}
        classes = [name for name in self._given if name in present]
        return classes, {name: self._given[name] for name in classes}


def _nearest_sibling(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir() if p.is_dir()], n=1)
    return f", did you mean {path.parent / near[0]}?" if near else ""


def fake(num_images: int = 256, num_classes: int = 10, image_size: int = 64) -> Source:
    """Noise that is a function of its index: for tests and for profiling.

    Args:
        num_images: images in train; val has a quarter of them, at least one.
        num_classes: labels are drawn from these.
        image_size: side of the images in pixels, before transforms.
    """
    shape = (3, image_size, image_size)
    return Source(
        train=FakeData(num_images, shape, num_classes),
        val=FakeData(max(1, num_images // 4), shape, num_classes, random_offset=num_images),
        classes=[str(label) for label in range(num_classes)],
    )


SOURCES: dict[str, Callable[..., Source]] = {"digits": digits, "folder": folder, "fake": fake}
