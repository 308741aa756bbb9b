"""Where a study is kept, and how the processes that take part in it find it."""

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage


@contextmanager
def connected(url: str) -> Iterator[RDBStorage]:
    """The database at `url`, made if there is none."""
    # Its lines tell what the tables tell better.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Jobs that run side by side wait for each other's writing.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    storage = RDBStorage(url, engine_kwargs=options)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def running_trial(storage: RDBStorage, study_name: str, number: int, pruner: BasePruner) -> optuna.Trial:
    """A trial that another process asked for."""
    # A trial's sampler is called when it is made, though its parameters stand fast; this one does nothing then.
    study = optuna.load_study(study_name=study_name, storage=storage, sampler=RandomSampler(), pruner=pruner)
    [identity] = [trial._trial_id for trial in study.get_trials(deepcopy=False) if trial.number == number]
    return optuna.Trial(study, identity)
