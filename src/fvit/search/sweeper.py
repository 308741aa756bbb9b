"""The search: ask Optuna for parameters, launch jobs with them through Hydra, report the results to Optuna."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from fvit.config.errors import RunError, describe, explain
from fvit.config.overrides import argument
from fvit.config.schemas.study import Options, Study
from fvit.config.validation import check
from fvit.config.wording import count
from fvit.launch.record import COMPLETED, read_metrics
from fvit.search import report, space
from fvit.search.study import (
    MissingObjectiveError,
    Outcome,
    connected,
    open_study,
    outcome_of_job,
    outcome_of_record,
    sampler,
)

log = logging.getLogger(__name__)

Trial = optuna.Trial | FrozenTrial


def search(sweeper: Sweeper, options: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Run the remaining trials of a study, then print a table and write study.html to the sweep directory.

    Args:
        sweeper: after its `setup`.
        options: of `hydra.sweeper`.
        arguments: the overrides of the command line.

    Raises:
        ConfigError: an option is wrong, or there is nothing to search.
        RunError: the directory is in use or holds another study, or too many trials failed.
    """
    if "LOCAL_RANK" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            "several processes would each run a search: start it in one process, without torchrun or srun, and set the "
            "processes of a run by hardware=ddp or hydra/launcher"
        )
    plain = check(OmegaConf.create({"hydra": {"sweeper": dict(options)}}), Study)["hydra"]["sweeper"]
    checked = Options.model_validate(plain)
    parameters, fixed = space.parse(checked.params, arguments, sweeper.hydra_context.config_loader)
    # Finds a wrong choice now, not when its turn comes.
    sweeper.validate_batch_is_legal([[*fixed, *trial] for trial in space.covering(parameters)])
    folder = Path(sweeper.config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    try:  # so that a trial that seems to run in this directory was interrupted
        lock = FileLock(folder / ".study.lock").acquire(timeout=0)
    except Timeout:
        message = f"another process runs the study in {folder}; wait for it, or choose another hydra.sweep.dir"
        raise RunError(message) from None
    with lock, connected(checked.storage) as storage:
        OmegaConf.save(sweeper.config, folder / "multirun.yaml")
        study = open_study(storage, checked, parameters, fixed)
        try:
            _Search(sweeper, study, checked, parameters, fixed, folder).run()
        finally:
            page = report.write_page(study, checked.objective, folder)
            report.print_study(study, checked.objective, folder, page)


@dataclass
class _Search:
    sweeper: Sweeper
    study: optuna.Study
    options: Options
    space: space.Space
    fixed: list[str]
    folder: Path
    failures: int = 0

    def run(self) -> None:
        """Run interrupted trials again, then new ones."""
        interrupted = self._interrupted()
        for start in range(0, len(interrupted), self.options.n_jobs):
            self._launch(interrupted[start : start + self.options.n_jobs])
        while (missing := self.options.n_trials - self._finished()) > 0:
            self._launch([self._ask() for _ in range(min(missing, self.options.n_jobs))])

    def _interrupted(self) -> list[Trial]:
        here = str(self.folder.resolve())
        interrupted: list[Trial] = []
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("sweep", here) != here:
                continue  # on another machine, in a study that several share
            if trial.params.keys() == self.space.keys():
                interrupted.append(trial)
            else:
                self._tell(trial, Outcome(TrialState.FAIL, error="interrupted before it started"))
        return interrupted

    def _finished(self) -> int:
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def _ask(self) -> Trial:
        self.study.sampler = sampler(self.options, len(self.study.get_trials(deepcopy=False)))
        trial = self.study.ask(self.space)
        trial.set_user_attr("sweep", str(self.folder.resolve()))
        return trial

    def _launch(self, trials: list[Trial]) -> None:
        """Run trials as jobs with the same numbers: consecutive ones together, because a launcher counts upwards."""
        for _, group in groupby(enumerate(trials), lambda pair: pair[1].number - pair[0]):
            self._launch_consecutive([trial for _, trial in group])
            self._check_failures()

    def _launch_consecutive(self, trials: list[Trial]) -> None:
        jobs = [[*self.fixed, *space.overrides(trial.params)] for trial in trials]
        try:
            results = self.sweeper.launcher.launch(jobs, initial_job_idx=trials[0].number)
        except Exception as error:
            # Not a job's own error: a worker was killed, or these parameters cannot be combined.
            log.warning("trials %s: %s", [trial.number for trial in trials], explain(error) or repr(error))
            for trial in trials:
                record = read_metrics(self.folder / str(trial.number))
                if record is not None and record["status"] in COMPLETED:
                    self._tell(trial, outcome_of_record(record, self.options.objective))
                else:
                    self._tell(trial, Outcome(TrialState.FAIL, error=describe(error)))
            return
        for trial, job in zip(trials, results, strict=True):
            try:
                outcome = outcome_of_job(job, self.options.objective)
            except MissingObjectiveError as error:
                self._tell(trial, Outcome(TrialState.FAIL, error=str(error)))
                raise
            self._tell(trial, outcome)

    def _tell(self, trial: Trial, outcome: Outcome) -> None:
        if outcome.state == TrialState.FAIL:
            self.failures += 1
            # Through the storage, because an interrupted trial is a FrozenTrial.
            self.study._storage.set_trial_user_attr(trial._trial_id, "error", outcome.error)
        self.study.tell(trial.number, outcome.values, outcome.state)

    def _check_failures(self) -> None:
        limit = self.options.max_failures
        if limit is not None and self.failures > limit:
            raise RunError(
                f"{count(self.failures, 'trial')} failed, and hydra.sweeper.max_failures={limit}: the search stops. "
                f"Its trials are kept: the same command with {argument('hydra.sweep.dir', self.folder)} resumes it; "
                "max_failures=null never stops"
            )
