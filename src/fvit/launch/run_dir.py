"""The run directory: the configuration of a run, its environment, its status and its results."""

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
from typing import Any

from omegaconf import OmegaConf

import fvit
from fvit.config.atomic import write_text
from fvit.config.errors import describe, explain
from fvit.config.legacy import migrate_overrides
from fvit.launch import disk, signals
from fvit.launch.lock import held
from fvit.launch.signals import Stopped

_PACKAGES = ("fvit", "torch", "torchvision", "timm", "lightning", "torchmetrics", "hydra-core", "wandb", "numpy")
_TRACEBACK = "traceback.log"
_INTERRUPTED = 255  # the exit code that W&B shows as an interrupt

COMPLETED = ("finished", "pruned")
"""The statuses of runs that need no further attempt."""


class RunDir:
    """The directory of a run that is in progress, as a context manager; all ranks enter it, rank 0 writes.

    On entry it locks the directory and writes config.yaml, environment.json, overrides.yaml and metrics.json with the
    status ``running``. On exit it closes the loggers and sets the status to ``finished``, ``pruned``, ``failed`` (with
    the error message) or ``interrupted`` (with the signal and the step, unless by Ctrl-C); traceback.log holds the
    traceback of an unexpected error. A resumed run keeps the environment of its first start, adds that of each later
    start under ``resumed``, and continues to count its seconds.

    Args:
        config: the resolved configuration, as plain dicts, lists and numbers.
        trainer: the run's `lightning.Trainer`; a logger may have `log_dataset`, `log_summary` and `close`, as
            `fvit.loggers.wandb.RunLogger` has.

    Raises:
        RunError: another process uses the directory; on exit, also that the disk is full.
    """

    def __init__(self, config: dict[str, Any], trainer: Any) -> None:
        self.path = Path(config["output_dir"])
        self.config = config
        self.trainer = trainer
        self.metrics: dict[str, float] = {}
        self.status = "finished"
        self.seconds_before = 0.0

    def __enter__(self) -> "RunDir":
        self.started = time.time()
        with ExitStack() as stack:
            if self.trainer.is_global_zero:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self.path))
                self._write_start()
                stack.push(self._write_end)
            stack.enter_context(disk.explaining(self.path))
            stack.enter_context(self._closing_loggers())
            self._on_exit = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._on_exit.__exit__(*exception)

    @property
    def seconds(self) -> float:
        """Elapsed time since the run first started, pauses excluded."""
        return self.seconds_before + time.time() - self.started

    def log_start(self, data: Any, cost: dict[str, float], **config: Any) -> None:
        """Tell the loggers the configuration, with `config` merged in, the dataset, and what the model costs."""
        for logger in self.trainer.loggers:
            logger.log_hyperparams({**self.config, **config})
            if hasattr(logger, "log_dataset"):
                logger.log_dataset(_name_of(data.hparams), data.source.fingerprint(), data.hparams.get("root"))
            if hasattr(logger, "log_summary"):
                logger.log_summary(cost)

    def finish(self, metrics: dict[str, float]) -> dict[str, float]:
        """Record the run's results, for metrics.json and the loggers; returns them."""
        self.metrics = metrics
        if any(getattr(callback, "pruned", False) for callback in self.trainer.callbacks):
            self.status = "pruned"
        for logger in self.trainer.loggers:
            if hasattr(logger, "log_summary"):
                logger.log_summary(metrics)
        return metrics

    @contextmanager
    def _closing_loggers(self) -> Iterator[None]:
        """Close the loggers with the right status; what Lightning turned into SystemExit is an interrupt again."""
        trainer, code, preempted = self.trainer, 1, False
        try:
            yield
            code = 0
        except Stopped:
            preempted = True
            raise
        except KeyboardInterrupt:
            code = _INTERRUPTED
            raise
        except SystemExit as stop:
            stopped = _stopped(trainer)
            preempted = stopped is not None
            code = 1 if preempted else _INTERRUPTED
            raise stopped or KeyboardInterrupt from stop
        finally:
            for logger in trainer.loggers:
                logger.finalize("failed" if code else "success")
                if hasattr(logger, "close"):
                    logger.close(trainer, best_scores(trainer), code, preempted)

    def _write_start(self) -> None:
        (self.path / _TRACEBACK).unlink(missing_ok=True)
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(self.config))
        resumed, noted = is_resumed(self.config), environment()
        if resumed and (self.path / "environment.json").is_file():
            first = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
            noted = {**first, "resumed": [*first.get("resumed", []), noted]}
        write_text(self.path / "environment.json", json.dumps(noted, indent=2))
        # Hydra writes its overrides before it is known whether the run accepts them.
        overrides = self.path / ".hydra" / "overrides.yaml"
        if overrides.is_file():
            write_text(self.path / "overrides.yaml", overrides.read_text(encoding="utf-8"))
        if resumed:
            self.seconds_before = (read_metrics(self.path) or {}).get("seconds", 0.0)
        write_metrics(self.path, "running", {}, self.seconds)

    def _write_end(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None:
            write_metrics(self.path, self.status, self.metrics, self.seconds)
            return
        if isinstance(error, KeyboardInterrupt):
            status, message = "interrupted", str(error) or None
        else:
            status, message = "failed", describe(error)
        with printing_write_errors():
            write_metrics(self.path, status, self.metrics, self.seconds, message)
            if status == "failed" and explain(error) is None:
                write_text(self.path / _TRACEBACK, "".join(traceback.format_exception(error)))


def is_resumed(config: dict[str, Any]) -> bool:
    """Whether `ckpt_path` is the run's own directory or a checkpoint in it, not that of another run."""
    if config.get("ckpt_path") is None:
        return False
    path, folder = (Path(config[key]).expanduser().resolve() for key in ("ckpt_path", "output_dir"))
    return path == folder or path.parent == folder / "checkpoints"


def best_scores(trainer: Any) -> dict[str, float]:
    """The score of each best checkpoint, as ``best/METRIC``."""
    return {
        f"best/{checkpoint.monitor}": checkpoint.best_model_score.item()
        for checkpoint in trainer.checkpoint_callbacks
        if checkpoint.monitor is not None and checkpoint.best_model_score is not None
    }


def _stopped(trainer: Any) -> Stopped | None:
    """The signal that ended the run, if one did; `Preemption` knows what came of it."""
    signum = signals.received()
    by_callback = (getattr(callback, "stopped", None) for callback in trainer.callbacks)
    return next(filter(None, by_callback), None) or (Stopped(signum) if signum else None)


def _name_of(data: Any) -> str:
    """The dataset's name; a folder's is that of its last part."""
    return Path(data.root).expanduser().resolve().name if data.name == "folder" else data.name


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


def note_elapsed(folder: Path) -> None:
    """Bring the seconds in metrics.json up to date: a run that is killed cannot do so at its end."""
    record = read_metrics(folder)
    if record is not None and record["status"] == "running":
        seconds = record["seconds"] + time.time() - record["process"]["updated"]
        write_metrics(folder, "running", record["metrics"], seconds)


def note_failure(folder: Path, error: str) -> bool:
    """Record an error that the run did not record itself, because it failed before it entered its directory.

    Returns:
        whether metrics.json holds the error now.
    """
    record = read_metrics(folder) or {"metrics": {}, "seconds": 0.0}
    if record.get("error") == error:
        return True
    with printing_write_errors():
        write_metrics(folder, "failed", record["metrics"], record["seconds"], error=error)
        return True
    return False


@contextmanager
def printing_write_errors() -> Iterator[None]:
    """Print that a file could not be written, and let the error that ended the run pass.

    That error may be a full disk. The log is on the same disk, so logging the failure would raise again.
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
    """The content of metrics.json, with the status ``crashed`` for a ``running`` process that no longer exists.

    A process on another machine cannot be looked up and counts as running.
    """
    record = read_metrics(folder)
    if record is not None and record["status"] == "running" and "process" in record and not _runs(record["process"]):
        record["status"] = "crashed"
    return record


def overrides_of(folder: Path) -> list[str]:
    """The overrides that a run was started with, as they were typed; interpolations are not resolved."""
    for path in (folder / "overrides.yaml", folder / ".hydra" / "overrides.yaml"):
        if path.is_file():
            return migrate_overrides(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
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
    """When the kernel started a process, since process ids are reused; None if it has ended, or without /proc."""
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
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    """None for a package that is not installed: fvit itself may run from a checkout, and without wandb."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """The output of git in the source directory; None outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(fvit.__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
