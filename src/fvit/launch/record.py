"""The record of a run: metrics.json with its status, its results and its time."""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fvit.config.atomic import write_text
from fvit.config.overrides import argument

COMPLETED = ("finished", "pruned")
"""The statuses of runs that need no further attempt."""

TRACEBACK = "traceback.log"
"""The file with the traceback of an unexpected error."""


def write_metrics(
    folder: Path, status: str, metrics: dict[str, float], seconds: float = 0.0, error: str | None = None
) -> None:
    """Write metrics.json; the status ``running`` comes with the process that runs."""
    content = {"status": status, "error": error, "seconds": round(seconds, 3), "metrics": metrics}
    if status == "running":
        content["process"] = {
            "host": platform.node(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "updated": time.time(),
        }
    write_text(folder / "metrics.json", json.dumps(content, indent=2))


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The content of metrics.json; None if the run never began."""
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def stamp(folder: Path) -> tuple[int, int] | None:
    """Differs after metrics.json was written, whatever its content; None if there is none."""
    try:
        status = (folder / "metrics.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def outcome(folder: Path) -> dict[str, Any] | None:
    """The content of metrics.json, with the status ``crashed`` for a ``running`` process that no longer exists.

    A process on another machine cannot be looked up and counts as running.
    """
    record = read_metrics(folder)
    if record is not None and record["status"] == "running" and "process" in record and not _runs(record["process"]):
        record["status"] = "crashed"
    return record


def note_elapsed(folder: Path) -> None:
    """Bring the seconds in metrics.json up to date: a run that is killed cannot do so at its end."""
    record = read_metrics(folder)
    if record is not None and record["status"] == "running":
        seconds = record["seconds"] + time.time() - record["process"]["updated"]
        write_metrics(folder, "running", record["metrics"], seconds)


@contextmanager
def printing_write_errors() -> Iterator[None]:
    """Print that a file could not be written, and let the error that ended the run pass.

    That error may be a full disk. The log is on the same disk, so logging the failure would raise again.
    """
    try:
        yield
    except OSError as failure:
        print(f"{failure.filename} could not be written: {failure.strerror}", file=sys.stderr)


def interruption(folder: Path, config: dict[str, Any]) -> str:
    """What to say after Ctrl-C: where the run lies, and how to resume it if it is one of training."""
    if "optimizer" not in config:
        return f"interrupted: {folder}"
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return f"interrupted before the first checkpoint: {folder}"
    return f"interrupted: {folder}; resume from the last checkpoint with fvit-train {argument('ckpt_path', folder)}"


def _runs(process: dict[str, Any]) -> bool:
    if process["host"] != platform.node():
        return True
    if process["started"] is not None:
        return _started(process["pid"]) == process["started"]
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    return True


def _started(pid: int) -> str | None:
    """When the kernel started a process, since process ids are reused; None if it has ended, or without /proc."""
    try:
        state, *further = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else further[18]
