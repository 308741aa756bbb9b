"""Weights & Biases: one run of it for each of ours, kept here where no server takes it, and closed with its status."""

import functools
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from fvit.config.paths import WANDB_ID
from fvit.launch.run_dir import write
from fvit.loggers import wandb_artifacts
from fvit.loggers.wandb_server import first_line, reachable
from fvit.loggers.wandb_start import begin

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

_LONGEST_TAG = 64  # W&B's own limit


def _survives(method: Callable[..., None]) -> Callable[..., None]:
    """Have a run go on whatever W&B does: without it where its own process dies, and else without what it refuses."""

    @functools.wraps(method)
    def call(logger: "RunLogger", *args: Any, **kwargs: Any) -> None:
        from wandb.errors import Error
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError
        from wandb.sdk.mailbox.mailbox_handle import HandleAbandonedError, ServerResponseError

        if logger.lost:
            return
        try:
            method(logger, *args, **kwargs)
        except (ConnectionError, HandleAbandonedError, ServerResponseError) as error:
            logger.lose(error)
        except (Error, WandbApiFailedError, OSError, ValueError) as error:
            if logger._experiment is None:  # it has not begun: its options are wrong, or nothing can be written here
                raise
            log.warning("W&B: %s failed (%s): the run goes on", method.__name__, first_line(error))

    return rank_zero_only(call)


class RunLogger(WandbLogger):
    """Lightning's WandbLogger, offline where no server takes the run; one that goes on in its folder stays one run.

    Args:
        save_dir: holds the folder wandb/, one for all runs of a project.
        project: of W&B.
        name: of the run.
        run_dir: the run's folder, which keeps the id.
        group: None for the name of the sweep's folder, where the run is a job of a sweep.
        tags: what to filter by, beside the parts of the name that commas separate.
        offline: keep the run here even if there is a key.
        media: how often in a run pictures are logged; see `fvit.loggers.wandb_media`.
        artifacts: checkpoints to upload at the end: ``off``, ``best``, or ``all``, the last one as well.
        options: further arguments of ``wandb.init``, such as `entity` and `notes`.
    """

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
        options.setdefault("id", _run_id(Path(run_dir)))
        tags = [tag[:_LONGEST_TAG] for tag in dict.fromkeys([*name.split(", "), *tags]) if tag]
        options |= {"group": group or _sweep(Path(run_dir)), "tags": tags}
        # Not Lightning's offline=True: it sets WANDB_MODE for the whole process, and so for the next job of a sweep.
        super().__init__(name=name, project=project, save_dir=save_dir, resume="allow", **options)
        del self._wandb_init["anonymous"]  # of which wandb says that it has no effect any more
        self.kept_here, self.media, self.artifacts = offline, media, artifacts
        self.lost = False

    @property
    @rank_zero_experiment
    def experiment(self) -> "wandb.Run":
        """The run of W&B, which begins when it is asked for first."""
        if self._experiment is None:
            self._experiment = begin(self._wandb_init, Path(self.save_dir), self.kept_here)
        return self._experiment

    @_survives
    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """Set the run's configuration."""
        super().log_hyperparams(params)

    @_survives
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row."""
        super().log_metrics(metrics, step)

    @_survives
    def log_media(self, make: Callable[[], dict[str, Any]], step: int) -> None:
        """Add a row of tables and pictures, which `make` makes of them for W&B."""
        with wandb_artifacts.staged(self.folder):
            self.experiment.log({**make(), "trainer/global_step": step})

    @_survives
    def log_dataset(self, name: str, facts: dict[str, Any], root: str | None) -> None:
        """Say what the run is trained on: as configuration, and as an artifact that the run uses.

        Args:
            name: of the source.
            facts: what tells one set of images from another.
            root: where it lies, if that can be said.
        """
        self.experiment.config.update({"dataset": facts}, allow_val_change=True)
        if not self._takes("the data set"):
            return
        with wandb_artifacts.staged(self.folder):
            wandb_artifacts.use_dataset(self.experiment, name, facts, root)

    @_survives
    def log_summary(self, figures: dict[str, float]) -> None:
        """Set what tables and scatter plots show of the run."""
        self.experiment.summary.update(figures)

    @_survives
    def log_checkpoints(self, trainer: Trainer) -> None:
        """Upload the checkpoints that are wanted, with what time that takes as long as the server answers."""
        if self.artifacts == "off" or not self._takes("checkpoints"):
            return
        run = self.experiment
        with wandb_artifacts.staged(self.folder):
            logged = wandb_artifacts.log_checkpoints(run, trainer, with_last=self.artifacts == "all")
        if not run.offline:
            self._wait_for(logged)

    @_survives
    def close(self, trainer: Trainer, best: dict[str, float], exit_code: int, preempted: bool = False) -> None:
        """End the run, if it has begun, and upload the checkpoints that are wanted.

        Args:
            trainer: which has written them.
            best: figures for the summary.
            exit_code: 0 for a run that came to its end; 255 is an interrupt to W&B, anything else a failure.
            preempted: it will be gone on with; an agent of a W&B sweep then starts it again.
        """
        if self._experiment is None:
            return
        self.log_summary(best)
        self.log_checkpoints(trainer)
        run = self._experiment
        if run is None:  # lost by now
            return
        if preempted:
            run.mark_preempting()
        run.finish(exit_code=exit_code)
        self._experiment = None

    def lose(self, error: Exception) -> None:
        """Go on without W&B."""
        import wandb

        self.lost, self._experiment = True, None
        log.warning("W&B's own process has died (%s): the run goes on, without W&B", error or type(error).__name__)
        # Or the next job of a sweep would look for that process.
        with suppress(Exception):
            wandb.teardown(exit_code=1)

    @property
    def folder(self) -> Path:
        """Where W&B's runs lie."""
        return Path(self.save_dir, "wandb")

    def _takes(self, what: str) -> bool:
        """Whether an artifact can be logged; W&B would ask a server that is gone by now for a minute."""
        run = self.experiment
        if run.disabled:
            return False
        there = run.offline or reachable(run.settings.base_url)
        if not there:
            log.warning("W&B: %s does not answer any more: no artifact is made of %s", run.settings.base_url, what)
        return there

    def _wait_for(self, artifacts: Sequence["wandb.Artifact"]) -> None:
        """Give large files their time as long as the server answers; the run's end is given seconds."""
        from wandb.sdk.artifacts.exceptions import WaitTimeoutError

        for artifact in artifacts:
            while reachable(self.experiment.settings.base_url):
                try:
                    artifact.wait(timeout=2)
                    break
                except WaitTimeoutError:
                    continue
                except ValueError as error:
                    log.warning("W&B does not take %s: %s", artifact.name, first_line(error))
                    break


def _sweep(run_dir: Path) -> str | None:
    """The name of the sweep's folder whose job this is; Hydra writes multirun.yaml into it."""
    return run_dir.parent.name if (run_dir.parent / "multirun.yaml").is_file() else None


@rank_zero_only
def _run_id(folder: Path) -> str:
    """The id that the folder holds; a new one, if it holds none."""
    path = folder / WANDB_ID
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write(path, secrets.token_hex(4))
    return path.read_text(encoding="utf-8")
