"""A study as it is kept from one start to the next."""

import json
import logging

import numpy as np
import optuna
from hydra.utils import instantiate
from optuna.distributions import distribution_to_json
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage

from fvit.config.errors import RunError
from fvit.config.schemas.study import Options
from fvit.search.space import Space

log = logging.getLogger(__name__)


def open_study(storage: RDBStorage, options: Options, space: Space, fixed: list[str]) -> optuna.Study:
    """The study of that name, made if there is none.

    Raises:
        RunError: it searches another space, or for something else.
    """
    study = optuna.create_study(
        study_name=options.study_name,
        storage=storage,
        directions=options.direction,
        pruner=instantiate(options.pruner),
        load_if_exists=True,
    )
    asked = {
        "objective": dict(zip(options.objective, options.direction, strict=True)),
        "space": {name: json.loads(distribution_to_json(distribution)) for name, distribution in sorted(space.items())},
    }
    begun = {key: study.user_attrs.get(key, value) for key, value in asked.items()}
    differing = [key for key in asked if begun[key] != asked[key]]
    if differing:
        told = "; ".join(f"its {key} is {_short(begun[key])}, now asked: {_short(asked[key])}" for key in differing)
        raise RunError(
            f"the study in {options.storage} is another one: {told}. Give the command that began it, "
            "or another hydra.sweep.dir"
        )
    before = study.user_attrs.get("overrides", fixed)
    if set(before) != set(fixed):
        changed = sorted(set(before) ^ set(fixed))
        log.warning("further trials differ from those before in %s: compare them with care", ", ".join(changed))
    for key, value in {**asked, "overrides": fixed}.items():
        study.set_user_attr(key, value)
    return study


def sampler(options: Options, trial: int) -> TPESampler:
    """Optuna's TPE, seeded anew for each trial: a study that was interrupted goes on as if it had not been."""
    [seed] = np.random.SeedSequence([options.seed, trial]).generate_state(1)
    return TPESampler(n_startup_trials=options.n_startup_trials, seed=int(seed))


def _short(value: dict) -> str:
    return json.dumps(value) if len(json.dumps(value)) < 200 else ", ".join(value)
