"""The error message when a run cannot be written, because the disk is full."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fvit.config.errors import DISK_FULL, RunError, explain_loader
from fvit.config.overrides import argument


@contextmanager
def explaining(folder: Path) -> Iterator[None]:
    """Turn a full disk or, since the errors may look alike, the loss of a data loader process, into one message.

    Raises:
        RunError: with the directory, its free space and the last good checkpoint, or what became of the loader.
    """
    try:
        yield
    except Exception as error:
        chain = list(_chain(error))
        # After a loader that could not start, Lightning's teardown raises an error of its own.
        if loader := next(filter(None, map(explain_loader, chain)), None):
            raise RunError(loader) from error
        reason = _reason(chain)
        if reason is None:
            raise
        raise RunError(_explain(reason, folder)) from error


def _explain(reason: str, folder: Path) -> str:
    saved = [path for name in ("last", "best") if (path := folder / "checkpoints" / f"{name}.ckpt").is_file()]
    text = f"{reason}: cannot write to {folder}, which has {_size(shutil.disk_usage(folder).free)} free"
    if not saved:
        return f"{text}; no checkpoint was saved yet. Make room, or set hydra.run.dir=DIR on another disk"
    return (
        f"{text}, and a checkpoint takes {_size(saved[0].stat().st_size)}. The last good checkpoint is {saved[0]}: "
        f"make room, and resume with {argument('ckpt_path', folder)}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, the cause's cause, …"""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(errors: list[BaseException]) -> str | None:
    for error in errors:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return DISK_FULL[error.errno]
    for error in errors:  # torch's writer does not pass on what the system said
        if isinstance(error, RuntimeError) and "inline_container.cc" in str(error):
            return f"the disk may be full ({str(error).splitlines()[0]})"
    return None


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"
