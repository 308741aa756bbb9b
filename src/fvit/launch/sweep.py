"""A sweep's folder: what became of its jobs, and going on with it by the same command."""

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
from fvit.config.flatten import flatten
from fvit.launch.quiet import QUIET
from fvit.launch.ranks import each_decides
from fvit.launch.run_dir import WELL, outcome, overrides_of, read_metrics


@dataclass
class Job:
    """One of a sweep: its number, its overrides, and what its metrics.json holds."""

    number: int
    overrides: list[str]
    record: dict[str, Any]


@dataclass
class Sweep:
    """A sweep of this command line; `planned` are the overrides of each job, as far as they are known beforehand."""

    folder: Path
    planned: list[list[str]]

    def jobs(self) -> list[Job]:
        """Those that have a folder, and those that should have."""
        found = {int(path.name): path for path in self.folder.glob("*") if path.name.isdigit()}
        jobs = []
        for number in sorted({*found, *range(len(self.planned))}):
            record = outcome(found[number]) if number in found else None
            overrides = _overrides(found[number]) if number in found else self.planned[number]
            jobs.append(Job(number, overrides, record or {"status": "not started", "metrics": {}, "seconds": 0.0}))
        return jobs


begun: list[Sweep] = []
"""The sweeps of this process. A launcher may run jobs elsewhere, so they cannot tell of themselves."""


class Refusal(BaseException):
    """Carries an error through Hydra, which makes a warning of any that a callback raises, and goes on."""


class SweepFolder(Callback):
    """Hydra's callback that notes a sweep, and refuses a folder in which the jobs' numbers mean other jobs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Look, before the first file is written.

        Raises:
            Refusal: caused by a ConfigError, or by anything else that hinders the look.
        """
        folder = Path(config.hydra.sweep.dir)
        try:
            planned = plan(config)
            _check_subdir(config)
            if folder.is_dir():
                _check_same_jobs(config, folder, planned)
        except Exception as error:
            raise Refusal from error
        begun.append(Sweep(folder, [_of_the_run(job) for job in planned]))


def plan(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a grid; none if the sweeper finds them as it goes."""
    if config.hydra.sweeper._target_ != f"{BasicSweeper.__module__}.{BasicSweeper.__name__}":
        return []
    arguments = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*arguments, *config.hydra.overrides.task])
    [jobs] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return jobs


def done(folder: Path) -> dict[str, float] | None:
    """The metrics of a job that needs no second attempt; None if there is something to do."""
    record = read_metrics(folder)
    return record["metrics"] if record is not None and record["status"] in WELL else None


def go_on(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration of a job that goes on where an earlier attempt was cut, if that left a checkpoint.

    Raises:
        ValueError: several machines would each decide which jobs there are, and which of them go on.
    """
    if each_decides(config["trainer"]):
        raise ValueError(
            f"trainer.num_nodes={config['trainer']['num_nodes']}: each machine would sweep for itself, and they may "
            "differ in what is done already; start it with torchrun (hardware=torchrun), where the first "
            "process decides for all, or through hydra/launcher=submitit_slurm"
        )
    if any((folder / "checkpoints").glob("*.ckpt")):
        return {**config, "ckpt_path": str(folder)}
    return config


def _check_subdir(config: DictConfig) -> None:
    """Hold the names of the jobs' folders to their numbers, by which they are found again."""
    subdir = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]
    if subdir != "${hydra.job.num}":
        raise ConfigError(
            f"hydra.sweep.subdir={subdir}: a job's folder is its number here; leave hydra.sweep.subdir out"
        )


def _check_same_jobs(config: DictConfig, folder: Path, planned: list[list[str]]) -> None:
    """Hold the jobs that have left something in `folder` against those that are to come.

    Raises:
        ConfigError: they differ, or one still runs.
    """
    other = "choose another hydra.sweep.dir, or leave it out"
    noted = folder / "multirun.yaml"
    if noted.is_file():
        before, now = OmegaConf.load(noted).hydra.sweeper._target_, config.hydra.sweeper._target_
        if before != now:
            raise ConfigError(f"{folder} is a sweep by {before}, and this command asks for {now}: {other}")
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
        began, asked = _overrides(job), _of_the_run(overrides)
        if began != asked:
            was, now = (
                " ".join(item for item in one if item not in two) for one, two in ((began, asked), (asked, began))
            )
            raise ConfigError(
                f"job {number} of {folder} began with {was or 'less'}, where this command says {now or 'less'}: give "
                f"the command that began the sweep, or {other}"
            )
        changed = _changed_keys(OmegaConf.load(job / ".hydra" / "config.yaml"), _composed(config, overrides))
        if changed:
            raise ConfigError(
                f"job {number} of {folder} began with another configuration, though its overrides are the same; "
                f"conf/ was changed in {', '.join(changed)}: restore it, or {other}"
            )


def _composed(config: DictConfig, overrides: list[str]) -> DictConfig:
    composed = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
    return OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])


def _changed_keys(before: DictConfig, now: DictConfig) -> list[str]:
    """Dotted keys whose values differ, as they are written: interpolations are not resolved."""
    old, new = (flatten(OmegaConf.to_container(config)) for config in (before, now))
    return sorted(key for key in {*old, *new} if old.get(key, ...) != new.get(key, ...) and key != QUIET)


def _overrides(job: Path) -> list[str]:
    return _of_the_run(overrides_of(job))


def _of_the_run(overrides: Sequence[str]) -> list[str]:
    """Those that are not for Hydra, nor for the terminal."""
    return [override for override in filter_overrides(overrides) if override.partition("=")[0] != QUIET]
