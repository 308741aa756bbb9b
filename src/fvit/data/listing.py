"""Listing folders: links are followed but not in circles, and whatever cannot be used is named."""

import logging
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from fvit.data.images import DataError

log = logging.getLogger(__name__)

# What operating systems and archivers put into any folder.
_FOREIGN = frozenset(("__MACOSX", "__pycache__", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
_FOREIGN |= {"@eaDir", "@Recycle", "#recycle", "#snapshot"}  # of network storage
_SHOWN = 5


def walk(
    root: str, wanted: Callable[[str], bool], broken: list[str], start: str = "", depth: int | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Each folder from root/`start` downwards, as a path relative to `root`, and the sorted names of its wanted files.

    Hidden files and folders are skipped, and so are links to a folder that contains the link, with a warning.

    Args:
        root: a folder.
        wanted: whether a file is listed, by its name.
        broken: receives what has a wanted name, or one without an extension, but is no file or folder, and why.
        start: a subfolder.
        depth: levels of folders to descend into; None for all.
    """
    pending = [(start, 1)]
    while pending:
        folder, level = pending.pop()
        folders, files, dead = entries(os.path.join(root, folder))
        paths = [os.path.join(folder, name) for name in folders]
        pending += [(path, level + 1) for path in paths if level != depth and not leads_back(root, path)]
        # A link without an extension may have been one to a folder.
        broken += [why for name, why in dead.items() if wanted(name) or "." not in name]
        yield folder, [name for name in files if wanted(name)]


def entries(folder: str) -> tuple[list[str], list[str], dict[str, str]]:
    """Sorted names of the folders and of the files in a folder, links included; for all else its path and the reason.

    Hidden entries are skipped, and what operating systems leave behind.
    """
    folders, files, dead = [], [], {}
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if is_skipped(entry.name):
                    continue
                if _answers(entry.is_dir):
                    folders.append(entry.name)
                elif _answers(entry.is_file):
                    files.append(entry.name)
                elif entry.is_symlink():
                    dead[entry.name] = f"{entry.path} is a link to {os.readlink(entry.path)}, which cannot be found"
                else:
                    dead[entry.name] = f"{entry.path} is not a regular file"
    except PermissionError:
        raise DataError(f"{folder} cannot be listed: permission denied") from None
    return sorted(folders), sorted(files), dead


def is_skipped(name: str) -> bool:
    """Whether a file or folder is hidden, or what operating systems leave behind."""
    return name.startswith(".") or name in _FOREIGN


def is_folder(path: Path) -> bool:
    """Whether it is one.

    Raises:
        DataError: it is a link that leads nowhere, which may have been one to a folder.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} is a link to {os.readlink(path)}, which cannot be found: repair or remove it")
    return path.is_dir()


def _answers(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link to itself, or into a folder without permission
        return False


def leads_back(root: str, path: str) -> bool:
    """Whether root/`path` is a link to a folder that contains it, or that the path has passed already."""
    full = os.path.join(root, path)
    if not os.path.islink(full):
        return False
    target, parts = os.path.realpath(full), path.split(os.sep)
    above = [os.path.realpath(os.path.join(root, *parts[:count])) for count in range(len(parts))]
    if not any(os.path.commonpath((target, folder)) == target for folder in above):
        return False
    _warn_once(f"left out {full}: it is a link to {target}, which contains it")
    return True


def report(broken: list[str]) -> None:
    """Warn of files that are left out."""
    if broken:
        log.warning("left out %d unusable file%s: %s", len(broken), "s" * (len(broken) > 1), some(broken, "; "))


def some(names: list[str], separator: str = ", ") -> str:
    """The first few names."""
    return separator.join(names[:_SHOWN]) + (f"{separator}…" if len(names) > _SHOWN else "")


@cache
def _warn_once(text: str) -> None:
    log.warning(text)
