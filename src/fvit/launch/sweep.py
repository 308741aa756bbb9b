"""Sweep directories: what became of the jobs, and resuming a sweep by the same command."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import filter_overrides
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from fvit.config.errors import ConfigError
from fvit.config.recorded import overrides_of
from fvit.launch.config_diff import changes
from fvit.launch.quiet import QUIET
from fvit.launch.record import COMPLETED, outcome, read_metrics


@dataclass
class Job:
    """A job's number, its overrides, and the content of its metrics.json."""

    number: int
    overrides: list[str]
    record: dict[str, Any]


@dataclass
class Sweep:
    """A sweep of this command line; `planned` holds the overrides of each job, if they are known beforehand."""

    folder: Path
    planned: list[list[str]]

    def jobs(self) -> list[Job]:
        """The jobs that have a directory, and those that were not started."""
        found = {int(path.name): path for path in self.folder.glob("*") if path.name.isdigit()}
        jobs = []
        for number in sorted({*found, *range(len(self.planned))}):
            record = outcome(found[number]) if number in found else None
            overrides = _overrides(found[number]) if number in found else self.planned[number]
            jobs.append(Job(number, overrides, record or {"status": "not started", "metrics": {}, "seconds": 0.0}))
        return jobs


started: list[Sweep] = []
"""The sweeps of this process. Their jobs may run in other ones, so they cannot report here."""


class Refusal(BaseException):
    """Carries an error through Hydra, which only warns of an Exception that a callback raises."""


class SweepFolder(Callback):
    """Hydra's callback that registers a sweep, and refuses a directory with jobs of another sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the directory, before the first file is written.

        Raises:
            Refusal: caused by a ConfigError, or by any error while checking.
        """
        folder = Path(config.hydra.sweep.dir)
        try:
            planned = plan(config)
            _check_subdir(config)
            if folder.is_dir():
                _check_same_jobs(config, folder, planned)
        except Exception as error:
            raise Refusal from error
        started.append(Sweep(folder, [_without_hydra(job) for job in planned]))


def plan(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a grid; none for a sweeper that chooses them one after another."""
    if config.hydra.sweeper._target_ != f"{BasicSweeper.__module__}.{BasicSweeper.__name__}":
        return []
    arguments = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*arguments, *config.hydra.overrides.task])
    [jobs] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return jobs


def finished_metrics(folder: Path) -> dict[str, float] | None:
    """The metrics of a job that is complete; None if it has to run."""
    record = read_metrics(folder)
    return record["metrics"] if record is not None and record["status"] in COMPLETED else None


def resume(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration of a job that resumes from the checkpoint of an earlier attempt, if there is one."""
    has_checkpoint = any((folder / "checkpoints").glob("*.ckpt"))
    return {**config, "ckpt_path": str(folder)} if has_checkpoint else config


def _check_subdir(config: DictConfig) -> None:
    subdir = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]
    if subdir != "${hydra.job.num}":
        raise ConfigError(
            f"hydra.sweep.subdir={subdir}: jobs are found again by their number; leave hydra.sweep.subdir out"
        )


def _check_same_jobs(config: DictConfig, folder: Path, planned: list[list[str]]) -> None:
    """Compare the jobs that left something in `folder` with the planned ones.

    Raises:
        ConfigError: they differ, or one is still running.
    """
    other = "choose another hydra.sweep.dir, or leave it out"
    noted = folder / "multirun.yaml"
    if noted.is_file():
        before, now = OmegaConf.load(noted).hydra.sweeper._target_, config.hydra.sweeper._target_
        if before != now:
            raise ConfigError(f"{folder} is a sweep by {before}, but this command uses {now}: {other}")
    for number, overrides in enumerate(planned):
        job = folder / str(number)
        record = outcome(job)
        if record is None:
            continue
        if record["status"] == "running":
            process = record["process"]
            raise ConfigError(
                f"job {number} of {folder} is running as process {process['pid']} on {process['host']}; wait for it or "
                f"end it. If that machine is gone, remove {job / 'metrics.json'}"
            )
        old, new = _overrides(job), _without_hydra(overrides)
        if old != new:
            was, now = (" ".join(item for item in one if item not in two) for one, two in ((old, new), (new, old)))
            raise ConfigError(
                f"job {number} of {folder} was started with {was or 'fewer overrides'}, but this command has "
                f"{now or 'fewer'}: give the command that started the sweep, or {other}"
            )
        composed = (OmegaConf.load(job / ".hydra" / "config.yaml"), _compose(config, overrides))
        if changed := sorted(changes(*map(OmegaConf.to_container, composed))):  # interpolations are not resolved
            raise ConfigError(
                f"job {number} of {folder} was started with another configuration, though its overrides are the same; "
                f"conf/ was changed in {', '.join(changed)}: restore it, or {other}"
            )


def _compose(config: DictConfig, overrides: list[str]) -> DictConfig:
    composed = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
    return OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])


def _overrides(job: Path) -> list[str]:
    return _without_hydra(overrides_of(job) or [])


def _without_hydra(overrides: Sequence[str]) -> list[str]:
    """The overrides that belong to the run: not Hydra's, and not `quiet`."""
    return [override for override in filter_overrides(overrides) if override.partition("=")[0] != QUIET]
