"""Atomic writes: a file has its old content or its new content, never a part of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PARTIAL = ".partial"


@contextmanager
def replacing(path: Path, mode: str = "w", newline: str | None = None, keep: Path | None = None) -> Iterator[IO[Any]]:
    """Open a file that takes the name `path` when the block ends, once its content is on disk.

    After an error `path` is what it was before. Each process writes to a temporary file with its own name.

    Args:
        path: the file to create or replace, in an existing folder.
        mode: ``w`` (UTF-8 text, in which names of files that are none are escaped) or ``wb``.
        newline: as for `open`.
        keep: where to move the file that is replaced; None deletes it.

    Raises:
        OSError: names `path`, which the system does not do when the disk is full.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": newline}
        with partial.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        partial.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path`, all of it or nothing."""
    with replacing(path) as file:
        file.write(text)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
