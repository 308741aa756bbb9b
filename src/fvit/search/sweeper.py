"""The search: ask Optuna for parameters, have Hydra launch jobs with them, tell Optuna what became of them."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from fvit.config.errors import RunError, explain
from fvit.config.schemas.study import Options, Study
from fvit.config.validation import check
from fvit.launch.run_dir import read_metrics
from fvit.search import report, space
from fvit.search.outcome import MissingObjectiveError, Outcome, of_job, of_record
from fvit.search.storage import connected
from fvit.search.study import open_study, sampler

log = logging.getLogger(__name__)

Trial = optuna.Trial | FrozenTrial


def search(sweeper: Sweeper, options: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Run the trials of a study that it still lacks; at the end a table, and study.html in the sweep's folder.

    Args:
        sweeper: has been set up.
        options: of `hydra.sweeper`.
        arguments: the command line's overrides.

    Raises:
        ConfigError: an option is wrong, or there is nothing to search.
        RunError: the folder is in use or holds another study, or too many trials failed.
    """
    if "LOCAL_RANK" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            "each of several processes would search for itself: start a study in one process (no torchrun or srun), "
            "and set the processes of a run by hardware=ddp or by hydra/launcher"
        )
    plain = check(OmegaConf.create({"hydra": {"sweeper": dict(options)}}), Study)["hydra"]["sweeper"]
    checked = Options.model_validate(plain)
    parameters, fixed = space.parse(checked.params, arguments, sweeper.hydra_context.config_loader)
    # A wrong choice is to be found now, not when its turn comes.
    sweeper.validate_batch_is_legal([[*fixed, *trial] for trial in space.covering(parameters)])
    folder = Path(sweeper.config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder), connected(checked.storage) as storage:
        OmegaConf.save(sweeper.config, folder / "multirun.yaml")
        study = open_study(storage, checked, parameters, fixed)
        try:
            _Search(sweeper, study, checked, parameters, fixed, folder).run()
        finally:
            page = report.write_page(study, checked.objective, folder)
            report.print_study(study, checked.objective, folder, page)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else searches in `folder` meanwhile, so that a trial that seems to run is one that was cut."""
    lock = FileLock(folder / ".study.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        message = f"another process runs the study in {folder}; wait for it, or take another hydra.sweep.dir"
        raise RunError(message) from None
    try:
        yield
    finally:
        lock.release()


class _Search:
    def __init__(
        self,
        sweeper: Sweeper,
        study: optuna.Study,
        options: Options,
        parameters: space.Space,
        fixed: list[str],
        folder: Path,
    ) -> None:
        self.sweeper = sweeper
        self.study = study
        self.options = options
        self.space = parameters
        self.fixed = fixed
        self.folder = folder
        self.failures = 0

    def run(self) -> None:
        """Trials that were cut, then new ones."""
        for batch in self._cut():
            self._launch(batch)
        while missing := max(0, self.options.n_trials - self._done()):
            for batch in _neighbours([self._ask() for _ in range(min(missing, self.options.n_jobs))]):
                self._launch(batch)

    def _cut(self) -> Iterator[list[Trial]]:
        """Trials whose process died, or was interrupted: nobody else works in this folder."""
        here = str(self.folder.resolve())
        cut = []
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("sweep", here) != here:
                continue  # on another machine, in a study that several share
            if trial.params.keys() == self.space.keys():
                cut.append(trial)
            else:
                self._tell(trial, Outcome(TrialState.FAIL, error="crashed before it began"))
        for start in range(0, len(cut), self.options.n_jobs):
            yield from _neighbours(cut[start : start + self.options.n_jobs])

    def _done(self) -> int:
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def _ask(self) -> Trial:
        self.study.sampler = sampler(self.options, len(self.study.get_trials(deepcopy=False)))
        trial = self.study.ask(self.space)
        trial.set_user_attr("sweep", str(self.folder.resolve()))
        return trial

    def _launch(self, trials: list[Trial]) -> None:
        """Run trials whose numbers follow one another; a job's number is its trial's."""
        jobs = [[*self.fixed, *space.overrides(trial.params)] for trial in trials]
        try:
            results = self.sweeper.launcher.launch(jobs, initial_job_idx=trials[0].number)
        except Exception as error:
            # Not the job's own error: its worker was killed, or these parameters do not go together in the first place.
            log.warning("trials %s: %s", [trial.number for trial in trials], explain(error) or repr(error))
            for trial in trials:
                self._tell(trial, self._left_by(trial, error))
            self._check_failures()
            return
        for trial, job in zip(trials, results, strict=True):
            try:
                outcome = of_job(job, self.options.objective)
            except MissingObjectiveError as error:
                self._tell(trial, Outcome(TrialState.FAIL, error=str(error)))
                raise
            self._tell(trial, outcome)
        self._check_failures()

    def _left_by(self, trial: Trial, error: Exception) -> Outcome:
        record = read_metrics(self.folder / str(trial.number))
        if record is not None and record["status"] in ("finished", "pruned"):
            return of_record(record, self.options.objective)
        return Outcome(TrialState.FAIL, error=explain(error) or f"{type(error).__name__}: {error}")

    def _tell(self, trial: Trial, outcome: Outcome) -> None:
        if outcome.state == TrialState.FAIL:
            self.failures += 1
            # Through the storage: a trial that was cut is known by its number alone.
            self.study._storage.set_trial_user_attr(trial._trial_id, "error", outcome.error)
        self.study.tell(trial.number, outcome.values, outcome.state)

    def _check_failures(self) -> None:
        most = self.options.max_failures
        if most is not None and self.failures > most:
            raise RunError(
                f"{self.failures} trials failed, and hydra.sweeper.max_failures={most}: the study ends here. "
                "What it has is kept: the same command with hydra.sweep.dir="
                f"{self.folder} goes on; max_failures=null never stops"
            )


def _neighbours(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Groups of trials whose numbers follow one another, since a launcher counts upwards."""
    groups: list[list[Trial]] = []
    for trial in trials:
        if groups and trial.number == groups[-1][-1].number + 1:
            groups[-1].append(trial)
        else:
            groups.append([trial])
    return groups
