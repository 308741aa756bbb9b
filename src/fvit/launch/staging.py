"""What a start writes before it is certain to train, in a folder of its own: a refused start changes nothing else.

Hydra's composed configuration, what `processes.launch` hands to its ranks, and their logs lie in the run directory
under ``.start-HOST-PID`` until the run begins. The messages for the log file wait in memory.
"""

import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from fvit.config.atomic import write_text
from fvit.launch.ranks import is_rank_zero
from fvit.launch.record import printing_write_errors, stamp, write_metrics

LAUNCHER = "FVIT_LAUNCHER"
"""The environment variable with the id of the process that started this rank."""

_PREFIX = ".start-"
COMPOSED = ("config.yaml", "hydra.yaml", "overrides.yaml")
"""What Hydra writes of a composed configuration."""


def name() -> str:
    """The name of this start's folder, the same for a process and the ranks that it started."""
    return f"{_PREFIX}{platform.node()}-{os.environ.get(LAUNCHER, os.getpid())}"


@contextmanager
def refusable(run: Path) -> Iterator[None]:
    """At the end, remove what a start left that did not begin its run, and the run directory if it was made for it.

    A command without run directories has the current directory in its place.
    """
    before, is_new = stamp(run), _holds_nothing_but(run)
    try:
        yield
    finally:
        _close_log(keep=stamp(run) != before)
        shutil.rmtree(run / name(), ignore_errors=True)
        unused = is_new and stamp(run) is None and _holds_nothing_but(run, ".log")
        if unused and is_rank_zero() and run.resolve() != Path.cwd():
            shutil.rmtree(run, ignore_errors=True)


def publish(run: Path) -> None:
    """Give the files of this start their names in the run directory, and remove what killed starts left there."""
    staged = run / name()
    for log in staged.glob("rank-*.log"):  # its rank continues to write it
        log.replace(run / log.name)
    if (staged / "overrides.yaml").is_file():
        write_text(run / "overrides.yaml", (staged / "overrides.yaml").read_text(encoding="utf-8"))
        (run / ".hydra").mkdir(exist_ok=True)
        for file in COMPOSED:
            (staged / file).replace(run / ".hydra" / file)
    for left in run.glob(f"{_PREFIX}*"):
        if left != staged:
            shutil.rmtree(left, ignore_errors=True)
    _close_log(keep=True)


def note_refusal(run: Path, error: str) -> None:
    """Record why the job of a sweep did not begin; if an earlier start began, its record stays."""
    if not (run / "config.yaml").is_file():
        with printing_write_errors():
            publish(run)
            write_metrics(run, "failed", {}, error=error)


def _close_log(keep: bool) -> None:
    """Write what waits for the log file, and from now on without waiting; or drop it."""
    root = logging.getLogger()
    for waiting in [handler for handler in root.handlers if isinstance(handler, MemoryHandler)]:
        root.removeHandler(waiting)
        if keep:
            waiting.flush()
            root.addHandler(waiting.target)
        else:
            waiting.buffer.clear()


def _holds_nothing_but(run: Path, *endings: str) -> bool:
    """Whether a directory has only folders of starts in it, and files with these endings."""
    return run.is_dir() and all(
        entry.name.startswith(_PREFIX) or entry.name.endswith(endings) for entry in run.iterdir()
    )
