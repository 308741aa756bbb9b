"""The images that a path or a pattern means."""

import glob
import os
from collections import defaultdict
from pathlib import Path

import numpy as np

from fvit.data.formats.files import FileImages, Listing, is_image, list_images, listing
from fvit.data.sources.base import nearest_sibling


def find_images(where: str | Path) -> FileImages:
    """The images at `where`, in the order of their names, without labels (0).

    Args:
        where: a file; a folder, whose images at any depth are meant; or a pattern such as ``photos/**/*.jpg``. Of
            folders and patterns only files with the name of an image count, and no hidden ones.

    Raises:
        FileNotFoundError: there is no such file or folder, or no image in it.
    """
    path = Path(where).expanduser()
    if path.is_file():
        return _unlabelled(path.parent, [listing("", [path.name])])
    if path.is_dir():
        found = list_images(path)
        if not found:
            raise FileNotFoundError(f"images={path} holds no images, such as *.jpg or *.png, at any depth")
        # Its own images lie in the folder ".", which has no place in a path for people.
        return _unlabelled(path, [one._replace(folder="" if one.folder == "." else one.folder) for one in found])
    if not glob.has_magic(str(path)):
        raise FileNotFoundError(f"images={path} does not exist{nearest_sibling(path)}")
    root = Path(*_plain_parts(path))
    names = defaultdict(list)
    for match in sorted(glob.glob(str(path), recursive=True)):
        folder, name = os.path.split(os.path.relpath(match, root))
        if is_image(name) and os.path.isfile(match):
            names[folder].append(name)
    if not names:
        raise FileNotFoundError(f"images={path} matches no file with the name of an image, such as *.jpg or *.png")
    return _unlabelled(root, [listing(folder, names[folder]) for folder in sorted(names)])


def _plain_parts(pattern: Path) -> list[str]:
    """The folders of a pattern in front of the first that is a pattern itself."""
    parts = pattern.parts[:-1]
    return list(parts[: next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))])


def _unlabelled(root: Path, listings: list[Listing]) -> FileImages:
    # Files of the current folder are called as the user calls them, without ./ in front.
    return FileImages("" if root == Path() else root, listings, np.zeros(sum(len(one.lengths) for one in listings)))
