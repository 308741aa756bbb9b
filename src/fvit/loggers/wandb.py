"""Weights & Biases: one W&B run per run, offline where no server takes it, closed with the status of the run."""

import errno
import functools
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from pydantic import ValidationError

from fvit.config.atomic import write_text
from fvit.config.errors import ConfigError
from fvit.config.paths import WANDB_ID
from fvit.config.validation import check_arguments
from fvit.launch.console import console
from fvit.loggers.wandb_origin import describe_checkpoint, origin, shortened
from fvit.loggers.wandb_server import choose_mode, reachable

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

_RESERVED = ("dir", "mode", "config", "settings", "resume", "anonymous")  # arguments of `wandb.init` set here
_LONGEST_TAG = 64  # W&B's limit
# Seconds for the server to start a run, and to receive what is still unsent when the run ends.
_START_TIMEOUT, _FINISH_TIMEOUT = 15.0, 12.0


def _never_fatal(method: Callable[..., None]) -> Callable[..., None]:
    """Let the run continue when W&B fails: without W&B if its service died, else without what it refused."""

    @functools.wraps(method)
    def call(logger: "RunLogger", *args: Any, **kwargs: Any) -> None:
        import wandb
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError
        from wandb.sdk.mailbox.mailbox_handle import HandleAbandonedError, ServerResponseError

        if logger.service_died:
            return
        try:
            method(logger, *args, **kwargs)
        except (ConnectionError, HandleAbandonedError, ServerResponseError) as error:
            logger.service_died, logger._experiment = True, None
            log.warning("W&B's service died (%s); the run continues without W&B", error or type(error).__name__)
            with suppress(Exception):  # else the next job of a sweep would look for that service
                wandb.teardown(exit_code=1)
        except (wandb.errors.Error, WandbApiFailedError, OSError, ValueError) as error:
            if logger._experiment is None:  # not started: a wrong option, or a directory that cannot be written
                raise
            log.warning("W&B: %s failed (%s); the run continues", method.__name__, _first_line(error))

    return rank_zero_only(call)


class RunLogger(WandbLogger):
    """Lightning's WandbLogger, offline without an API key or a server; a resumed run stays one W&B run.

    The options are explained in conf/logger/_wandb.yaml; `options` are further arguments of ``wandb.init``.

    Attributes:
        waiting: while true, no W&B run is started.
    """

    waiting = False

    def __init__(
        self,
        save_dir: str | Path,
        project: str,
        name: str,
        run_dir: str | Path,
        group: str | None = None,
        tags: Sequence[str] = (),
        offline: bool = False,
        media: int = 0,
        artifacts: str = "off",
        **options: Any,
    ) -> None:
        import wandb

        check_arguments(wandb.init, options, "logger.wandb", _RESERVED)
        run_dir = Path(run_dir)
        if group is None and (run_dir.parent / "multirun.yaml").is_file():  # which Hydra writes for a sweep
            group = run_dir.parent.name
        parts = [part for part in name.split(", ") if "=" not in part]  # settings are keys of the config instead
        options |= {"group": group, "tags": [tag[:_LONGEST_TAG] for tag in dict.fromkeys([*parts, *tags]) if tag]}
        # Not Lightning's offline=True, which sets WANDB_MODE for the whole process and so for the next job of a sweep.
        super().__init__(name=shortened(name), project=project, save_dir=save_dir, **options)
        del self._wandb_init["anonymous"]  # deprecated by W&B
        self.run_dir = run_dir
        self.stay_offline, self.media, self.artifacts = offline, media, artifacts
        self.service_died = False

    @property
    @rank_zero_experiment
    def experiment(self) -> "wandb.Run | DummyExperiment":
        """The W&B run, which starts on first use, but not before the run begins.

        Raises:
            ConfigError: W&B does not accept an option.
        """
        import wandb

        if self.waiting:
            return DummyExperiment()
        if self._experiment is None:
            try:
                self._start()
            except wandb.errors.UsageError as error:
                raise ConfigError(f"logger.wandb: {_first_line(error)}") from error
            except ValidationError as error:  # also for W&B's environment variables
                fault = error.errors()[-1]
                raise ConfigError(
                    f"W&B: {'.'.join(map(str, fault['loc']))}={fault['input']}: {fault['msg']}"
                ) from error
        return self._experiment

    @_never_fatal
    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """Log the configuration, and what Hydra recorded of its origin: `choices`, `overrides` and `variant`.

        The variant is the name without the seed: runs that share it are repetitions of one another.
        """
        super().log_hyperparams(params | origin(self.run_dir, params) if "output_dir" in params else params)

    @_never_fatal
    def log_code(self, folder: Path) -> None:
        """Log the user's own modules in `folder` as the code of this run, unless ``save_code`` is false."""
        if self._wandb_init.get("save_code", True) and self._takes_artifacts("the code"):
            self.experiment.log_code(str(folder), include_fn=lambda path: True)

    log_metrics = _never_fatal(WandbLogger.log_metrics)

    @_never_fatal
    def log_summary(self, metrics: dict[str, float]) -> None:
        """Set values of the run's summary, which W&B's tables and scatter plots show."""
        self.experiment.summary.update(metrics)

    @_never_fatal
    def log_media(self, make: Callable[[], dict[str, Any]], step: int) -> None:
        """Log the tables and images that `make` returns."""
        super().log_metrics(make(), step)

    @_never_fatal
    def log_dataset(self, name: str, description: dict[str, Any], root: str | None) -> None:
        """Log what the run is trained on, in its config and as an artifact that it uses: the description, no images.

        Another description is another version of the artifact; another `root` is not. The artifact has no reference to
        `root`, because W&B would list every file there.
        """
        import wandb

        run = self.experiment
        run.config.update({"dataset": description}, allow_val_change=True)
        if self._takes_artifacts("the dataset"):
            metadata = {**description, "root": root}
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"data-{name}"), type="dataset", metadata=metadata)
            with artifact.new_file("dataset.json") as file:
                json.dump(description, file, indent=1)
            # As `run.use_artifact`, which raises if offline, and else waits for the server.
            run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)

    @_never_fatal
    def log_checkpoints(self, trainer: Trainer) -> None:
        """Upload the best and the last checkpoint, as `artifacts` says, as versions of one model with their metrics."""
        import wandb
        from wandb.sdk.artifacts.exceptions import WaitTimeoutError

        wanted = {"off": [], "best": ["best"], "all": ["best", "last"]}[self.artifacts]
        if not wanted or not self._takes_artifacts("checkpoints"):
            return
        run, logged = self.experiment, []
        for callback in trainer.checkpoint_callbacks:
            alias, path = "last" if callback.monitor is None else "best", callback.best_model_path
            if alias in wanted and path and os.path.exists(path):
                metadata = describe_checkpoint(callback, Path(path))
                artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata)
                add = artifact.add_dir if os.path.isdir(path) else artifact.add_file  # a sharded one is a directory
                add(path, name=Path(path).name)
                logged.append(run.log_artifact(artifact, aliases=[alias]))
        # Uploads may take their time while the server answers; `run.finish` waits for seconds.
        for artifact in logged:
            while not run.offline and reachable(run.settings.base_url):
                with suppress(WaitTimeoutError):
                    artifact.wait(timeout=2)
                    break

    @_never_fatal
    def close(self, trainer: Trainer, best: dict[str, float], exit_code: int, preempted: bool = False) -> None:
        """Upload the trainer's checkpoints and finish the W&B run, if it has started.

        Args:
            trainer: the Trainer.
            best: metrics for the summary.
            exit_code: 0 finished, 255 interrupted, others failed.
            preempted: whether the run will resume; the agent of a W&B sweep then starts it again.
        """
        if self._experiment is None:
            return
        self.log_summary(best)
        self.log_checkpoints(trainer)
        if not self.service_died:
            if preempted:
                self.experiment.mark_preempting()
            self.experiment.finish(exit_code=exit_code)
            self._experiment = None

    def _start(self) -> None:
        """Start the run on the server, or offline, and print one line that says where it is."""
        import wandb

        folder = _writable(Path(self.save_dir, "wandb"))
        if self._wandb_init["id"] is None:
            self._wandb_init["id"] = self._id = _run_id(self.run_dir)
        # Offline runs refer to copies of their artifacts, which W&B would keep in the home directory.
        os.environ.setdefault("WANDB_DATA_DIR", str((folder / "staged").resolve()))
        deadline = time.monotonic() + _START_TIMEOUT
        mode, reason = ("offline", "logger.wandb.offline=true") if self.stay_offline else choose_mode()
        if mode == "online":
            before = set(folder.glob("run-*"))
            timeout = max(1.0, deadline - time.monotonic())
            try:  # quiet: else W&B asks the server several times who we are
                self._init("online", quiet=True, init_timeout=timeout, finish_timeout=_FINISH_TIMEOUT)
            except wandb.errors.Error as error:
                mode, reason = "offline", f"the server does not accept the run ({_first_line(error)})"
                wandb.teardown(exit_code=1)  # else the id counts as in use
                for failed in set(folder.glob("run-*")) - before:
                    shutil.rmtree(failed, ignore_errors=True)
            else:
                _print(f"W&B: {self._experiment.url}")
                return
        self._init(mode, silent=True)
        if mode == "offline":
            run, runs = (shlex.quote(os.path.relpath(path)) for path in (Path(self._experiment.dir).parent, folder))
            _print(
                f"W&B: {reason}, so this run stays offline in {run}; "
                f"look at it with `wandb leet {runs}`, send it with `wandb sync {run}`"
            )

    def _init(self, mode: str, **settings: Any) -> None:
        import wandb

        # Not through Lightning, which would continue in a run whose service has died.
        run = wandb.init(**self._wandb_init, mode=mode, settings=wandb.Settings(**settings))
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self._experiment = run
        self.run_dir.mkdir(parents=True, exist_ok=True)
        write_text(self.run_dir / WANDB_ID, self._wandb_init["id"])  # only now: a run that W&B refuses leaves nothing

    def _takes_artifacts(self, what: str) -> bool:
        """Whether to log an artifact: W&B would try for a minute if its server is gone."""
        run = self.experiment
        if run.disabled or run.offline or reachable(run.settings.base_url):
            return not run.disabled
        log.warning("W&B: %s no longer answers; no artifact of %s", run.settings.base_url, what)
        return False


def _writable(folder: Path) -> Path:
    """`folder`, which is made if it does not exist.

    Raises:
        ConfigError: it cannot be written; the message names the setting that it comes from.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        origin = os.environ.get("WANDB_DIR")
        if origin and folder == Path(origin, "wandb"):
            remedy = f"WANDB_DIR is {origin}: set it to another folder"
        else:
            remedy = "set logger.wandb.save_dir=DIR" + ("" if origin else ", or WANDB_DIR=DIR in the environment")
        raise ConfigError(f"W&B cannot write to {folder}: {error.strerror}; {remedy}") from error
    return folder


def _run_id(folder: Path) -> str:
    """The W&B id of the run directory, a new one if it has none."""
    path = folder / WANDB_ID
    return path.read_text(encoding="utf-8") if path.is_file() else secrets.token_hex(4)


def _print(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
