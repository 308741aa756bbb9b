"""What became of a job, as a study wants to know it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from optuna.trial import TrialState

from fvit.config.errors import RunError, did_you_mean
from fvit.launch.run_dir import read_metrics


@dataclass
class Outcome:
    """A state, the values of the objectives if it is COMPLETE, and the reason if it is FAIL."""

    state: TrialState
    values: list[float] | None = None
    error: str | None = None


class MissingObjectiveError(RunError):
    """A finished job has no such metric, and so none will."""


def of_job(job: JobReturn, objective: Sequence[str]) -> Outcome:
    """From the run's metrics.json, which knows how a run ended in whichever process, else from what the job returned.

    Raises:
        MissingObjectiveError: it finished without one of the metrics.
    """
    record = read_metrics(Path(job.hydra_cfg.hydra.runtime.output_dir))
    if record is not None:
        return of_record(record, objective)
    try:
        metrics = job.return_value
    except Exception as error:  # whatever it is, it is the job's
        return Outcome(TrialState.FAIL, error=f"{type(error).__name__}: {error}")
    if not isinstance(metrics, Mapping):
        return Outcome(TrialState.FAIL, error="the job did not begin")
    return _of_metrics(metrics, objective)


def of_record(record: Mapping[str, Any], objective: Sequence[str]) -> Outcome:
    """From the content of metrics.json."""
    if record["status"] == "finished":
        return _of_metrics(record["metrics"], objective)
    if record["status"] == "pruned":
        return Outcome(TrialState.PRUNED)
    return Outcome(TrialState.FAIL, error=record["error"] or f"the job ended while {record['status']}")


def _of_metrics(metrics: Mapping[str, float], objective: Sequence[str]) -> Outcome:
    for name in objective:
        if name not in metrics:
            raise MissingObjectiveError(
                f"hydra.sweeper.objective={name} is no metric of a finished run"
                f"{did_you_mean(name, list(metrics))}; known: {', '.join(sorted(metrics))}"
            )
        if not math.isfinite(metrics[name]):
            return Outcome(TrialState.FAIL, error=f"{name} is {metrics[name]}")
    return Outcome(TrialState.COMPLETE, [float(metrics[name]) for name in objective])
