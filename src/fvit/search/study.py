"""A study in its database: opening it, its trials, and what became of their jobs."""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra.core.utils import JobReturn
from hydra.utils import instantiate
from optuna.distributions import distribution_to_json
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from fvit.config.errors import RunError, did_you_mean
from fvit.config.schemas.study import Options
from fvit.launch.record import read_metrics
from fvit.search.space import Space

log = logging.getLogger(__name__)


@contextmanager
def connected(url: str) -> Iterator[RDBStorage]:
    """The database at `url`, created if it does not exist."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the tables say what its INFO lines say
    # Parallel jobs wait for each other's writes.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    storage = RDBStorage(url, engine_kwargs=options)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def open_study(storage: RDBStorage, options: Options, space: Space, fixed: list[str]) -> optuna.Study:
    """The study of that name, created if it does not exist.

    Raises:
        RunError: it has another search space, or other objectives.
    """
    study = optuna.create_study(
        study_name=options.study_name,
        storage=storage,
        directions=options.direction,
        pruner=instantiate(options.pruner),
        load_if_exists=True,
    )
    now = {
        "objective": dict(zip(options.objective, options.direction, strict=True)),
        "space": {name: json.loads(distribution_to_json(distribution)) for name, distribution in sorted(space.items())},
    }
    before = {key: study.user_attrs.get(key, value) for key, value in now.items()}
    if differing := [key for key in now if before[key] != now[key]]:
        changes = "; ".join(f"its {key} was {_short(before[key])}, now {_short(now[key])}" for key in differing)
        raise RunError(
            f"the study in {options.storage} is another one: {changes}. Give the command that started it, or another "
            "hydra.sweep.dir"
        )
    if changed := sorted(set(study.user_attrs.get("overrides", fixed)) ^ set(fixed)):
        log.warning("new trials differ from earlier ones in %s: compare them with care", ", ".join(changed))
    for key, value in {**now, "overrides": fixed}.items():
        study.set_user_attr(key, value)
    return study


def sampler(options: Options, trial: int) -> TPESampler:
    """Optuna's TPE with a new seed for each trial: a resumed study continues as if it had not been interrupted."""
    [seed] = np.random.SeedSequence([options.seed, trial]).generate_state(1)
    return TPESampler(n_startup_trials=options.n_startup_trials, seed=int(seed))


def running_trial(storage: RDBStorage, study_name: str, number: int, pruner: BasePruner) -> optuna.Trial:
    """A trial that another process asked for."""
    # Creating a Trial calls the sampler, though the parameters are already chosen; this one does nothing then.
    study = optuna.load_study(study_name=study_name, storage=storage, sampler=RandomSampler(), pruner=pruner)
    [identity] = [trial._trial_id for trial in study.get_trials(deepcopy=False) if trial.number == number]
    return optuna.Trial(study, identity)


@dataclass
class Outcome:
    """The state of a trial, the values of the objectives if it is COMPLETE, and the reason if it is FAIL."""

    state: TrialState
    values: list[float] | None = None
    error: str | None = None


class MissingObjectiveError(RunError):
    """A finished job has no such metric, so no other will."""


def outcome_of_job(job: JobReturn, objective: Sequence[str]) -> Outcome:
    """From metrics.json, whichever process wrote it, or else from what the job returned.

    Raises:
        MissingObjectiveError: the job finished without one of the metrics.
    """
    record = read_metrics(Path(job.hydra_cfg.hydra.runtime.output_dir))
    if record is not None:
        return outcome_of_record(record, objective)
    try:
        metrics = job.return_value
    except Exception as error:  # the job's, whatever it is
        return Outcome(TrialState.FAIL, error=f"{type(error).__name__}: {error}")
    if not isinstance(metrics, Mapping):
        return Outcome(TrialState.FAIL, error="the job did not start")
    return _outcome_of_metrics(metrics, objective)


def outcome_of_record(record: Mapping[str, Any], objective: Sequence[str]) -> Outcome:
    """From the content of metrics.json."""
    if record["status"] == "finished":
        return _outcome_of_metrics(record["metrics"], objective)
    if record["status"] == "pruned":
        return Outcome(TrialState.PRUNED)
    return Outcome(TrialState.FAIL, error=record["error"] or f"the job ended while {record['status']}")


def _outcome_of_metrics(metrics: Mapping[str, float], objective: Sequence[str]) -> Outcome:
    for name in objective:
        if name not in metrics:
            raise MissingObjectiveError(
                f"hydra.sweeper.objective={name} is not a metric of a finished run{did_you_mean(name, list(metrics))}; "
                f"known: {', '.join(sorted(metrics))}"
            )
        if not math.isfinite(metrics[name]):
            return Outcome(TrialState.FAIL, error=f"{name} is {metrics[name]}")
    return Outcome(TrialState.COMPLETE, [float(metrics[name]) for name in objective])


def _short(value: dict[str, Any]) -> str:
    return json.dumps(value) if len(json.dumps(value)) < 200 else ", ".join(value)
