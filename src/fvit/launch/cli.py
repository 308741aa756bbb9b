"""What every command line shares: composing, errors for people, the table after a sweep."""

import gc
import os
import secrets
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from dotenv import load_dotenv
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from fvit.config import validation
from fvit.config.errors import describe, explain
from fvit.config.paths import conf_dir
from fvit.launch import help, processes, quiet, ranks, signals, slurm, sweep
from fvit.launch.devices import check_devices
from fvit.launch.run_dir import WELL, note_failure

# Here, because a launcher's own processes import this file and resolve the sweep's folder before they call anything.
OmegaConf.register_new_resolver("fvit.hex", lambda: secrets.token_hex(2), use_cache=True, replace=True)
OmegaConf.register_new_resolver("fvit.level", lambda quiet: "WARNING" if quiet else "INFO", replace=True)
OmegaConf.register_new_resolver("fvit.groups", help.groups, replace=True)

Work = Callable[[dict[str, Any]], dict[str, float]]
Rewrite = Callable[[Sequence[str]], list[str]]
Settle = Callable[[dict[str, Any]], dict[str, Any]]

# What is behind these is for Hydra's completion alone.
_COMPLETION = {"-sc", "--shell-completion", "--shell_completion"}


def run(
    task: str, work: Work, schema: type[BaseModel], rewrite: Rewrite = list, settle: Settle = dict, alone: bool = False
) -> None:
    """Compose conf/`task`.yaml with the command line, check it, and call `work`; once, or once a job of a multirun.

    A user's mistake ends in one message and exit code 1; ``HYDRA_FULL_ERROR=1`` adds the traceback. A job of a sweep
    that fails does not stop the others.

    Args:
        task: the configuration's name, and that of the module ``fvit.<task>`` which is started for further processes.
        work: gets the checked configuration, returns metrics.
        schema: what the configuration may hold.
        rewrite: makes Hydra's arguments from those of the command line.
        settle: makes the checked configuration definite, once for all processes.
        alone: the task has the machine to itself, and so its threads may spin while they wait.
    """
    work = quiet.heeded(work)
    resolved = processes.read_resolved(sys.argv)
    if resolved is not None:
        processes.run_as_rank(work, resolved)
        return
    exchange = ranks.ConfigBroadcast()
    if "trainer" in schema.model_fields and ranks.external_rank():
        while (config := exchange.receive()) is not None:
            processes.run_as_rank(work, config)
        return
    load_dotenv()
    if not alone:
        # Must be set before torch is imported. OpenMP's threads otherwise spin while they wait, and where other work
        # wants the same cores they spin against it: the quickstart was seen to run at a tenth of its speed.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Makes Hydra hand its errors to us instead of printing them in its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failures: list[Exception] = []
    interrupted: KeyboardInterrupt | None = None
    sweep.begun.clear()

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=task)
    def hydra_job(cfg: DictConfig) -> Any:
        """One run, or one job of a sweep: maybe in another process, so that it tells how it ended by its folder."""
        settings = HydraConfig.get()
        folder = Path(settings.runtime.output_dir)
        multirun = settings.mode == RunMode.MULTIRUN
        swept = multirun and "trainer" in cfg  # others have no metrics to compare
        # Jobs of one process share its memory, and being killed it takes all of them along.
        isolated = multirun and settings.runtime.choices["hydra/launcher"] != "basic"
        result = None
        if multirun:
            gc.collect()  # the model of the job before lies in cycles, and would count as this one's memory
        with signals.listening():  # here as well: some launchers call this in a process of its own
            try:
                if swept and (result := sweep.done(folder)) is not None:
                    print(f"job {settings.job.num} is done")
                    return result
                config = validation.check(cfg, schema)
                config = settle(sweep.go_on(config, folder) if swept else config)
                result = _start(task, work, config, isolated, exchange)
            except Exception as error:
                _report(error, task, show_traceback)
                if swept:
                    note_failure(folder, describe(error))
                elif isolated:
                    raise  # a list in this process may be nobody's
                else:
                    _discard_unstarted(folder)
                    failures.append(error)
                signals.raise_received()
                if ranks.external_rank() is not None:
                    sys.exit(1)  # the other ranks wait within this job, and whoever started them ends them
            signals.raise_received()
        return result

    with signals.listening():
        try:
            if not _COMPLETION & set(sys.argv):
                sys.argv[1:] = rewrite(sys.argv[1:])
            hydra_job()
        except Exception as error:
            _report(error, task, show_traceback)
            failures.append(error)
        except sweep.Refusal as refusal:
            _report(refusal.__cause__, task, show_traceback)
            failures.append(refusal.__cause__)
        except KeyboardInterrupt as error:
            interrupted = error
        if "trainer" in schema.model_fields and ranks.external_rank() == 0:
            exchange.send(None)
        signals.ignore_further()
        _leave(interrupted, bool(failures))


def _leave(interrupted: KeyboardInterrupt | None, failed: bool) -> None:
    """Show what became of a sweep, and exit unless all went well."""
    for begun in sweep.begun:
        from fvit.launch.console import print_sweep

        jobs = begun.jobs()
        print_sweep(begun.folder, jobs)
        failed = failed or any(job.record["status"] not in WELL for job in jobs)
    if isinstance(interrupted, signals.Stopped):
        print(interrupted, file=sys.stderr)
        if sweep.begun:
            print("the sweep stops here: its further jobs were not started", file=sys.stderr)
        slurm.requeue(interrupted.signum)
        sys.exit(signals.EXIT_CODE)
    if interrupted is not None:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(1)


def _start(
    task: str, work: Work, config: dict[str, Any], isolated: bool, exchange: ranks.ConfigBroadcast
) -> dict[str, float]:
    """Work here, or in a process a device where there is a trainer that has some."""
    count = processes.local_processes(config["trainer"], isolated) if "trainer" in config else 0
    if "trainer" in config and (rank := ranks.external_rank()) is not None:
        ranks.check_world(config["trainer"])
        if rank == 0:
            exchange.send(config)
        else:  # it has composed all the same: a task of submitit
            config = exchange.receive()
    if count:
        check_devices(config["trainer"])
        return processes.launch(f"fvit.{task}", config, Path(config["output_dir"]), count)
    return work(config)


def _report(error: Exception, task: str, show_traceback: bool) -> None:
    message = explain(error, task)
    if message is None or show_traceback:
        traceback.print_exception(error)
    if message is not None:
        print(f"error: {message}", file=sys.stderr)


def _discard_unstarted(folder: Path) -> None:
    """Remove the folder that Hydra made for a run that never began: it holds nothing but the composed config.

    A task without folders of its own has the current one in its place, which is the user's.
    """
    if folder.resolve() == Path.cwd():
        return
    if folder.is_dir() and not (folder / "metrics.json").exists():
        content = {entry.name for entry in folder.iterdir()}
        if all(name == ".hydra" or name.endswith(".log") for name in content):
            shutil.rmtree(folder)
