"""The tree of folders that torchvision's ImageFolder reads."""

from pathlib import Path

from fvit.data.formats.files import FileImages, list_tree
from fvit.data.sources.base import Source, existing_folder


def folder(root: str | Path | None = None) -> Source:
    """An ImageFolder tree: root/train/CLASS/*.jpg and root/val/CLASS/*.jpg. Labels follow the training classes.

    Raises:
        FileNotFoundError: the root or one of its two folders is missing or holds no image.
        ValueError: `root` is None, or a class occurs in val that train lacks.
    """
    if root is None:
        raise ValueError("data=folder needs data.root: a folder that holds train/CLASS/*.jpg and val/CLASS/*.jpg")
    root = existing_folder(root)
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise FileNotFoundError(f"data.root={root} has no folder '{split}'; it needs train/CLASS/* and val/CLASS/*")
    return tree(root / "train", root / "val")


def tree(train: Path, val: Path) -> Source:
    """The source of two folders that exist, with a folder a class in each.

    Raises:
        FileNotFoundError: one of them holds no image.
        ValueError: a class occurs in val that train lacks.
    """
    names = {split: class_folders(split) for split in (train, val)}
    strangers = sorted(set(names[val]) - set(names[train]))
    if strangers:
        shown = ", ".join(strangers[:5]) + (", …" if len(strangers) > 5 else "")
        raise ValueError(
            f"{val} holds {len(strangers)} classes that train lacks: {shown}. Remove them, or add their training images"
        )
    return Source(labelled_tree(train, names[train]), labelled_tree(val, names[train]), names[train])


def class_folders(split: Path) -> list[str]:
    """The names of the folders in a split, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    names = sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise FileNotFoundError(f"{split} holds no images; it needs CLASS/*.jpg (or .png, .webp, …)")
    return names


def labelled_tree(split: Path, classes: list[str]) -> FileImages:
    """The images of a split. A class whose folder is missing does not shift the labels of those behind it.

    Raises:
        FileNotFoundError: there is no image.
    """
    images = list_tree(split, classes)
    if not len(images):
        raise FileNotFoundError(f"{split} holds no images; it needs CLASS/*.jpg (or .png, .webp, …)")
    return images
