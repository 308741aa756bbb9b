"""The run directory: the configuration of a run, its environment, its status and its results."""

import datetime
import json
import logging
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import fvit
from fvit.config.atomic import write_text
from fvit.config.errors import ConfigError, describe, explain
from fvit.config.paths import WANDB_ID
from fvit.launch import disk, own_code, signals, staging
from fvit.launch.lock import held
from fvit.launch.record import TRACEBACK, interruption, printing_write_errors, read_metrics, write_metrics
from fvit.launch.signals import Stopped

_PACKAGES = ("fvit", "torch", "torchvision", "timm", "lightning", "torchmetrics", "hydra-core", "wandb", "numpy")
_INTERRUPTED = 255  # the exit code that W&B shows as an interrupt
# What says how a run goes on when it resumes in its directory.
_SETTINGS = ("overrides.yaml", "config.yaml", *(f".hydra/{name}" for name in staging.COMPOSED))

log = logging.getLogger(__name__)


class RunDir:
    """The directory of a run that is in progress, as a context manager; all ranks enter it, rank 0 writes.

    On entry it locks the directory. Nothing else changes there before the run begins: the callback `RunStart` says
    when; without that callback it begins with `log_start`. Then config.yaml, environment.json, overrides.yaml and
    metrics.json with the status ``running`` are written, and the loggers opened. On exit these are closed, and the
    status becomes ``finished``, ``pruned``, ``failed`` (with the error message) or ``interrupted`` (with the signal and
    the step, or after Ctrl-C how to resume); traceback.log holds the traceback of an unexpected error. A resumed run
    keeps the environment of its first start, adds that of each later start under ``resumed``, and continues to count
    its seconds; if it fails before it has saved a checkpoint, its overrides and config.yaml are again what they were,
    so that a mistake in those of the failed start is not repeated.

    Args:
        config: the resolved configuration, as plain dicts, lists and numbers.
        trainer: the run's `lightning.Trainer`; a logger may have `waiting` (it opens nothing while that is true),
            `log_dataset`, `log_summary` and `close`, as `fvit.loggers.wandb.RunLogger` has.

    Raises:
        ConfigError: the directory holds the record of a training run and this is an evaluation, or the reverse.
        RunError: another process uses the directory; on exit, also that the disk is full.
    """

    def __init__(self, config: dict[str, Any], trainer: Any) -> None:
        self.path = Path(config["output_dir"])
        self.config = config
        self.trainer = trainer
        self.metrics: dict[str, float] = {}
        self.status = "finished"
        self.seconds_before = 0.0
        self.begun = False
        self._before: dict[str, str] = {}

    def __enter__(self) -> "RunDir":
        self.started = time.time()
        self._check_kind()
        with ExitStack() as stack:
            if self.trainer.is_global_zero:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self.path))
                stack.push(self._write_end)
            stack.enter_context(disk.explaining(self.path))
            stack.enter_context(self._closing_loggers())
            self._on_exit = stack.pop_all()
        for logger in self.trainer.loggers:
            if hasattr(logger, "waiting"):
                logger.waiting = True
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            self._on_exit.__exit__(*exception)
        finally:
            if not self.begun and self.trainer.is_global_zero:
                with suppress(OSError):  # it is not empty
                    self.path.rmdir()

    @property
    def seconds(self) -> float:
        """Elapsed time since the run first started, pauses excluded."""
        return self.seconds_before + time.time() - self.started

    def log_start(self, data: Any, cost: dict[str, float], **config: Any) -> None:
        """What loggers are told when the run begins: the configuration with `config` merged in, dataset and cost."""
        self._start = data, cost, config
        starts = [callback for callback in self.trainer.callbacks if hasattr(callback, "begin_run")]
        for callback in starts:
            callback.begin_run = self.begin
        if not starts:
            self.begin()

    def begin(self, after_a_batch: bool = True) -> None:
        """Begin the run, which replaces the record of an earlier start; nothing if it has begun.

        Args:
            after_a_batch: whether one batch has passed. Before, only a new directory changes: much may still go wrong.
        """
        if self.begun or (not after_a_batch and (self.path / "metrics.json").is_file()):
            return
        if self.trainer.is_global_zero and not is_resumed(self.config):  # else W&B would resume the run before this one
            (self.path / WANDB_ID).unlink(missing_ok=True)
        for logger in self.trainer.loggers:
            if hasattr(logger, "waiting"):
                logger.waiting = False
                _ = logger.experiment  # opens it; W&B may refuse its options
        self.begun = True
        if self.trainer.is_global_zero:
            self._write_start()
        data, cost, config = self._start
        for logger in self.trainer.loggers:
            logger.log_hyperparams({**self.config, **config})
            if hasattr(logger, "log_code") and (code := own_code.newest(self.path)):
                logger.log_code(code)
            if hasattr(logger, "log_dataset"):
                logger.log_dataset(_name_of(data.hparams), data.source.fingerprint(), data.hparams.get("root"))
            if hasattr(logger, "log_summary"):
                logger.log_summary(cost)

    def finish(self, metrics: dict[str, float]) -> dict[str, float]:
        """Record the run's results, for metrics.json and the loggers; returns them."""
        self.begin()
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
        except (KeyboardInterrupt, SystemExit) as interrupt:
            stopped = _stopped(trainer) if isinstance(interrupt, SystemExit) else None
            preempted = stopped is not None
            code = 1 if preempted else _INTERRUPTED
            text = [interruption(self.path, self.config)] if self.begun else []
            raise stopped or KeyboardInterrupt(*text) from interrupt
        finally:
            for logger in trainer.loggers if self.begun else []:
                logger.finalize("failed" if code else "success")
                if hasattr(logger, "close"):
                    logger.close(trainer, best_scores(trainer), code, preempted)

    def _write_start(self) -> None:
        (self.path / TRACEBACK).unlink(missing_ok=True)
        if is_resumed(self.config):
            self._saved = self._checkpoints()
            files = {name: self.path / name for name in _SETTINGS}
            self._before = {name: file.read_text(encoding="utf-8") for name, file in files.items() if file.is_file()}
        staging.publish(self.path)
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(self.config))
        noted = environment() | own_code.keep(self.path, self.config)
        if is_resumed(self.config):
            before = read_metrics(self.path) or {}
            self.seconds_before, self.metrics = before.get("seconds", 0.0), before.get("metrics", {})
            if (self.path / "environment.json").is_file():
                first = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
                noted = {**first, "resumed": [*first.get("resumed", []), noted]}
        write_text(self.path / "environment.json", json.dumps(noted, indent=2))
        for name, text in self._start[0].source.records.items():
            write_text(self.path / name, text)
        write_metrics(self.path, "running", self.metrics, self.seconds)

    def _write_end(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if not self.begun:
            return
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
                write_text(self.path / TRACEBACK, "".join(traceback.format_exception(error)))
            if status == "failed":
                self._restore_settings()

    def _restore_settings(self) -> None:
        """Write back the overrides and the configuration of before a resumed start that saved no checkpoint."""
        if self._before and self._checkpoints() == self._saved:
            for name, text in self._before.items():
                write_text(self.path / name, text)
            log.warning("%s keeps the overrides that it had before this start, which saved no checkpoint", self.path)

    def _checkpoints(self) -> dict[str, int]:
        """The checkpoints that a run resumes from, and when they were written."""
        return {file.name: file.stat().st_mtime_ns for file in (self.path / "checkpoints").glob("*.ckpt")}

    def _check_kind(self) -> None:
        """Refuse a directory of another command, whose record this one would replace."""
        file = self.path / "config.yaml"
        if not file.is_file() or read_metrics(self.path) is None:
            return
        was, now = (
            "a training run" if "optimizer" in one else "an evaluation" for one in (OmegaConf.load(file), self.config)
        )
        if was != now:
            raise ConfigError(
                f"{self.path} holds the record of {was}, which {now} would replace: set hydra.run.dir to another "
                "directory, or leave it out"
            )


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
    """The dataset's name; a folder's is that of its last part, a torch dataset's that of its class or function."""
    if data.name in ("own", "torchvision"):
        return data.dataset
    return Path(data.root).expanduser().resolve().name if data.name == "folder" else data.name


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


@cache
def _git(*arguments: str) -> str | None:
    """The output of git in the source directory; None outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(fvit.__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
