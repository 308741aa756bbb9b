"""The command lines: compose the configuration, check it, call the command, and report errors."""

import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from dotenv import load_dotenv
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from pydantic import BaseModel

import fvit
from fvit.config import legacy, validation
from fvit.config.errors import WITH_RUN_DIR, ConfigError, describe, explain
from fvit.config.overrides import argument, parse
from fvit.config.paths import conf_dir
from fvit.launch import processes, program, quiet, ranks, resolvers, signals, staging, sweep
from fvit.launch.devices import check_devices
from fvit.launch.record import COMPLETED

# On import, because the processes of a launcher compose before they call anything here.
resolvers.register()
legacy.register_moved_modules()

Work = Callable[[dict[str, Any]], dict[str, float]]
Complete = Callable[[dict[str, Any]], dict[str, Any]]

# The options of Hydra's completion, which takes the words behind them.
_COMPLETION = {"-sc", "--shell-completion", "--shell_completion"}


def run(
    task: str,
    work: Work,
    schema: type[BaseModel],
    expand_arguments: Callable[[Sequence[str]], list[str]] = list,
    complete: Complete = dict,
    alone: bool = False,
) -> None:
    """Compose conf/`task`.yaml with the command line, check it, and call `work`; for a sweep, once per job.

    A user's mistake ends in one message and exit code 1; ``HYDRA_FULL_ERROR=1`` adds the traceback.

    Args:
        task: the name of the configuration, and of the module ``fvit.<task>`` that further processes run.
        work: takes the checked configuration, returns metrics.
        schema: keys and types of the configuration.
        expand_arguments: returns Hydra's arguments for those of the command line.
        complete: fills in what the checked configuration leaves open, once for all ranks.
        alone: nothing else runs on the machine, so threads may spin while they wait.
    """
    if "--version" in sys.argv[1:]:
        print(f"fvit {fvit.__version__}")
        return
    with program.own(task):
        _run(task, quiet.wrap(work), schema, expand_arguments, complete, alone)


def _run(
    task: str,
    work: Work,
    schema: type[BaseModel],
    expand_arguments: Callable[[Sequence[str]], list[str]],
    complete: Complete,
    alone: bool,
) -> None:
    config = processes.read_resolved(sys.argv)
    if config is not None:  # a rank of ours
        processes.run_as_rank(work, config)
        return
    trains, broadcast = "trainer" in schema.model_fields, ranks.ConfigBroadcast()
    if trains and ranks.external_rank():  # a rank of torchrun or srun, but not rank 0
        while (config := broadcast.receive()) is not None:
            processes.run_as_rank(work, config)
        return

    load_dotenv()
    if not alone:
        # Before torch is imported. OpenMP's threads otherwise spin while they wait, and where other processes want the
        # same cores they spin against each other: training was seen to run at a tenth of its speed.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = _Command(task, work, schema, complete, broadcast, os.environ.get("HYDRA_FULL_ERROR") == "1")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    sweep.started.clear()
    interrupt = None
    with signals.listening():
        try:
            if not _COMPLETION & set(sys.argv):
                sys.argv[1:] = expand_arguments(sys.argv[1:])
                _check_run_dir(task, sys.argv[1:])
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=task)(command.run_job)()
        except Exception as error:
            command.report(error)
        except sweep.Refusal as refusal:
            command.report(refusal.__cause__)
        except KeyboardInterrupt as error:
            interrupt = error
        if trains and ranks.external_rank() == 0:
            broadcast.send(None)
        signals.ignore_further()
        _exit(command.failed, interrupt)


def _check_run_dir(task: str, argv: Sequence[str]) -> None:
    """Refuse a run directory whose path contains ``${``: Hydra replaces that even where it is escaped."""
    if task not in WITH_RUN_DIR:
        return
    given = dict(parse(get_args_parser().parse_known_args(list(argv))[0].overrides))
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        if key in given and "\\${" in str(given[key].value()):
            raise ConfigError(
                f"{given[key].input_line}: a run directory cannot have ${{ in its path; take another name"
            )
    if "${" in str(Path.cwd()):
        raise ConfigError(
            f"a run cannot start in {Path.cwd()}, because of the ${{ in its path: rename it, or start elsewhere"
        )


@dataclass
class _Command:
    """What Hydra calls: once, or once per job, for some launchers on a copy in another process."""

    task: str
    work: Work
    schema: type[BaseModel]
    complete: Complete
    broadcast: ranks.ConfigBroadcast
    show_traceback: bool
    failed: bool = False

    def run_job(self, cfg: DictConfig) -> dict[str, float] | None:
        """Check a composed configuration and work with it; a failed job does not stop the others of its sweep."""
        settings = HydraConfig.get()
        folder = Path(settings.runtime.output_dir)
        multirun = settings.mode == RunMode.MULTIRUN
        in_sweep = multirun and "trainer" in cfg  # the jobs of other commands have no metrics to compare
        # Jobs of one process share its memory, and die together.
        isolated = multirun and settings.runtime.choices["hydra/launcher"] != "basic"
        metrics = None
        if multirun:
            gc.collect()  # the previous job's model is in reference cycles, and would count as this job's memory
        with signals.listening(), staging.refusable(folder):  # listening again, in case this is another process
            try:
                if in_sweep and (metrics := sweep.finished_metrics(folder)) is not None:
                    print(f"job {settings.job.num} is done")
                    return metrics
                config = validation.check(cfg, self.schema)
                if in_sweep:
                    config = sweep.resume(config, folder)
                if "torch" not in sys.modules and not config[quiet.QUIET] and not (multirun and settings.job.num):
                    # Importing torch may take half a minute, without another sign of life.
                    print(f"fvit-{self.task} {fvit.__version__}: loading libraries …", file=sys.stderr)
                metrics = self._work(self.complete(config), isolated)
            except Exception as error:
                self.report(error)
                if in_sweep:
                    staging.note_refusal(folder, describe(error))
                elif isolated:
                    raise  # through the launcher, to the process that started it
                signals.raise_received()
                if ranks.external_rank() is not None:
                    sys.exit(1)  # torchrun or srun ends the other ranks, which are still within this job
            except KeyboardInterrupt as interrupt:
                if "trainer" in cfg and not interrupt.args:
                    raise KeyboardInterrupt("interrupted before the run began: nothing has changed") from None
                raise
            signals.raise_received()
        return metrics

    def _work(self, config: dict[str, Any], isolated: bool) -> dict[str, float]:
        """Work in this process or, with a trainer that has devices, in one process per device."""
        if "trainer" not in config:
            return self.work(config)
        ranks.check_world(config["trainer"])
        if (rank := ranks.external_rank()) is not None:
            if rank == 0:
                self.broadcast.send(config)
            else:  # a task of submitit, which has composed a configuration as well
                config = self.broadcast.receive()
        count = processes.local_processes(config["trainer"], isolated)
        if not count:
            return self.work(config)
        check_devices(config["trainer"])
        return processes.launch(f"fvit.{self.task}", config, Path(config["output_dir"]), count)

    def report(self, error: BaseException) -> None:
        """Print what a user can act on, and the traceback of any other error."""
        self.failed = True
        message = explain(error, self.task)
        if message is None or self.show_traceback:
            traceback.print_exception(error)
        if message is not None:
            print(f"error: {message}", file=sys.stderr)


def _exit(failed: bool, interrupt: KeyboardInterrupt | None) -> None:
    """Print the table of a sweep, and exit with 143 after a signal, 130 after Ctrl-C, 1 after a failure."""
    for begun in sweep.started:
        from fvit.launch.console import print_sweep

        jobs = begun.jobs()
        print_sweep(begun.folder, jobs)
        failed = failed or any(job.record["status"] not in COMPLETED for job in jobs)
    if interrupt is not None:
        print(str(interrupt) or "interrupted", file=sys.stderr)
    if interrupt is not None and sweep.started:
        folder = argument("hydra.sweep.dir", sweep.started[-1].folder)
        print(f"the sweep stops here; to resume it, repeat the command with {folder}", file=sys.stderr)
    if isinstance(interrupt, signals.Stopped):
        signals.requeue(interrupt.signum)
        sys.exit(signals.EXIT_CODE)
    if interrupt is not None:
        sys.exit(130)
    if failed:
        sys.exit(1)
