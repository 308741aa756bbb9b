"""What every source gives, and what sources of a folder share."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from fvit.data.images import Images


@dataclass(frozen=True)
class Source:
    """A training set, a validation set, and the class names in the order of the labels."""

    train: Images
    val: Images
    classes: list[str]


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
