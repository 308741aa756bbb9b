"""The run's folder: what was asked, where it ran, and how it ended."""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import OmegaConf

import fvit
from fvit.config.atomic import write_text as write
from fvit.config.errors import describe, explain
from fvit.launch.lock import held

_PACKAGES = ("fvit", "torch", "torchvision", "timm", "lightning", "torchmetrics", "hydra-core", "wandb", "numpy")
_TRACEBACK = "traceback.log"

WELL = ("finished", "pruned")
"""How a run ends that needs no second attempt."""


class Record:
    """Context manager around a run: writes config.yaml, environment.json, and metrics.json with a status.

    The status is ``running`` inside, then ``finished`` or what `finish` was told, ``failed`` (with the error's text) or
    ``interrupted`` (with the signal and the step, unless by Ctrl-C). Of an error that does not explain itself there is
    also traceback.log. A run that goes on keeps the environment of its first start, notes that of each further one
    under ``resumed``, and counts its seconds on.

    Args:
        folder: the run's folder.
        config: the resolved configuration, plain.
        active: write at all; False on all ranks but the first.
        goes_on: the run was begun before.

    Raises:
        RunError: another process is at work in the folder.
    """

    def __init__(self, folder: str | Path, config: dict[str, Any], active: bool = True, goes_on: bool = False) -> None:
        self.folder = Path(folder)
        self.config = config
        self.active = active
        self.goes_on = goes_on
        self.seconds_before = 0.0
        self._lock = ExitStack()
        self.metrics: dict[str, float] = {}
        self.ended = "finished"

    def __enter__(self) -> "Record":
        self.started = time.time()
        if self.active:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(held(self.folder))
            (self.folder / _TRACEBACK).unlink(missing_ok=True)
            write(self.folder / "config.yaml", OmegaConf.to_yaml(self.config))
            self._note_environment()
            self._note_overrides()
            if self.goes_on:
                self.seconds_before = (read_metrics(self.folder) or {}).get("seconds", 0.0)
            self.note_time()
        return self

    def note_time(self) -> None:
        """Have metrics.json say how long the run has taken so far: one that is killed cannot say it at its end."""
        if self.active:
            self._write_status("running")

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
        with self._lock:
            self._write_end(error)

    def _write_end(self, error: BaseException | None) -> None:
        if error is None:
            self._write_status(self.ended)
            return
        if isinstance(error, KeyboardInterrupt):
            status, message = "interrupted", str(error) or None
        else:
            status, message = "failed", describe(error)
        with last_words():
            self._write_status(status, message)
            if status == "failed" and explain(error) is None:
                write(self.folder / _TRACEBACK, "".join(traceback.format_exception(error)))

    @property
    def seconds(self) -> float:
        """Of this start and, where the run goes on, of those before it."""
        return self.seconds_before + time.time() - self.started

    def _note_environment(self) -> None:
        path = self.folder / "environment.json"
        if self.goes_on and path.is_file():
            noted = json.loads(path.read_text(encoding="utf-8"))
            noted["resumed"] = [*noted.get("resumed", []), environment()]
        else:
            noted = environment()
        write(path, json.dumps(noted, indent=2))

    def _note_overrides(self) -> None:
        """Hydra writes down its overrides before it is known whether the run can go on with them."""
        overrides = self.folder / ".hydra" / "overrides.yaml"
        if overrides.is_file():
            write(self.folder / "overrides.yaml", overrides.read_text(encoding="utf-8"))

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


def note_failure(folder: Path, error: str) -> bool:
    """Have metrics.json tell of an error that the run itself could not note, having failed before its record began.

    Returns:
        whether it tells of it now.
    """
    record = read_metrics(folder) or {"metrics": {}, "seconds": 0.0}
    if record.get("error") == error:
        return True
    with last_words():
        write_metrics(folder, "failed", record["metrics"], record["seconds"], error=error)
        return True
    return False


@contextmanager
def last_words() -> Iterator[None]:
    """Say on the terminal what of a run's end cannot be written, and let the error that ended it pass.

    A full disk may be that very error. The log lies on the same disk, and would answer with a traceback of its own.
    """
    try:
        yield
    except OSError as failure:
        print(f"{failure.filename} could not be written: {failure.strerror}", file=sys.stderr)


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The content of metrics.json; None if the run never started."""
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def outcome(folder: Path) -> dict[str, Any] | None:
    """The content of metrics.json, where ``running`` is ``cut`` if its process has ended without a word.

    A process on another machine cannot be looked up, and is taken to run on.
    """
    record = read_metrics(folder)
    if record is not None and record["status"] == "running" and "process" in record and not _runs(record["process"]):
        record["status"] = "cut"
    return record


def overrides_of(folder: Path) -> list[str]:
    """What a run was begun with; the run itself notes it, since Hydra also writes what is refused later."""
    for path in (folder / "overrides.yaml", folder / ".hydra" / "overrides.yaml"):
        if path.is_file():
            # As they were typed: an interpolation among them has its meaning in the whole configuration alone.
            return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return []


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
