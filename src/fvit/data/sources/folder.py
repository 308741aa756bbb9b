"""A tree of folders as in torchvision's ImageFolder."""

from pathlib import Path

from fvit.data.formats.files import list_tree
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
    classes = class_folders(train)
    if unknown := sorted(set(class_folders(val)) - set(classes)):
        shown = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        raise ValueError(f"{val} has {len(unknown)} classes that train does not have: {shown}. Remove or add them")
    return Source(list_tree(train, classes), list_tree(val, classes), classes)


def class_folders(split: Path) -> list[str]:
    """The names of the folders in a split, sorted."""
    return sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
