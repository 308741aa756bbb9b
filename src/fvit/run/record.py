"""The run's folder: what was asked, where it ran, and how it ended."""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import OmegaConf

import fvit
from fvit.run.errors import describe, explain

_PACKAGES = ("fvit", "torch", "torchvision", "timm", "lightning", "torchmetrics", "hydra-core", "wandb", "numpy")
_TRACEBACK = "traceback.log"


class Record:
    """Context manager around a run: writes config.yaml, environment.json, and metrics.json with a status.

    The status is ``running`` inside, then ``finished`` or what `finish` was told, ``failed`` (with the error's text) or
    ``interrupted``. Of an error that does not explain itself there is also traceback.log.

    Args:
        folder: the run's folder.
        config: the resolved configuration, plain.
        active: write at all; False on all ranks but the first.
    """

    def __init__(self, folder: str | Path, config: dict[str, Any], active: bool = True) -> None:
        self.folder = Path(folder)
        self.config = config
        self.active = active
        self.metrics: dict[str, float] = {}
        self.ended = "finished"

    def __enter__(self) -> "Record":
        self.started = time.time()
        if self.active:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _TRACEBACK).unlink(missing_ok=True)
            write(self.folder / "config.yaml", OmegaConf.to_yaml(self.config))
            write(self.folder / "environment.json", json.dumps(environment(), indent=2))
            self._write_status("running")
        return self

    def amend(self, config: dict[str, Any]) -> dict[str, Any]:
        """Have config.yaml hold `config`, of which something was found out since; returns it."""
        if config != self.config:
            self.config = config
            if self.active:
                write(self.folder / "config.yaml", OmegaConf.to_yaml(config))
        return config

    def finish(self, metrics: dict[str, float], status: str = "finished") -> dict[str, float]:
        """Note the results, and how they came about; returns them."""
        self.metrics = metrics
        self.ended = status
        return metrics

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.active:
            return
        if error is None:
            self._write_status(self.ended)
        elif isinstance(error, KeyboardInterrupt):
            self._write_status("interrupted")
        else:
            self._write_status("failed", describe(error))
            if explain(error) is None:
                write(self.folder / _TRACEBACK, "".join(traceback.format_exception(error)))

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.time() - self.started

    def _write_status(self, status: str, error: str | None = None) -> None:
        write_metrics(self.folder, status, self.metrics, seconds=self.seconds, error=error)


def write_metrics(
    folder: Path, status: str, metrics: dict[str, float], seconds: float = 0.0, error: str | None = None
) -> None:
    """Write metrics.json; while a run goes on, with the process that it is."""
    content = {"status": status, "error": error, "seconds": round(seconds, 3), "metrics": metrics}
    if status == "running":
        content["process"] = {"host": platform.node(), "pid": os.getpid(), "started": _started(os.getpid())}
    write(folder / "metrics.json", json.dumps(content, indent=2))


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The content of metrics.json; None if the run never started."""
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def outcome(folder: Path) -> dict[str, Any] | None:
    """The content of metrics.json, where ``running`` is ``cut`` if its process has ended without a word.

    A process on another machine cannot be looked up, and is taken to run on.
    """
    record = read_metrics(folder)
    if record is not None and record["status"] == "running" and not _runs(record["process"]):
        record["status"] = "cut"
    return record


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


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
    """When the kernel says that a process began, for its number is used again; None if it is gone, or without /proc."""
    try:
        state, *further = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else further[18]


def environment() -> dict[str, Any]:
    """Versions, commit, machine, command and time."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.node(),
        "cpus": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }


def _git(*arguments: str) -> str | None:
    """The output of git in the folder of the sources; None outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(fvit.__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
