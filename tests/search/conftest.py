"""Studies of a task that costs nothing, under real Hydra and Optuna."""

import logging
import sys
from pathlib import Path

import hydra
import optuna
import pytest
from hydra.core.config_store import ConfigStore

from fvit.config.paths import conf_dir
from fvit.search.study import connected

TOY = {"x": 0.0, "n": 0, "way": "flat"}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """`toy(task, *overrides)` runs a search in tmp_path/sweep, in which each job calls `task`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    ConfigStore.instance().store(name="toy", node=TOY)
    handlers = logging.getLogger().handlers[:]

    def run(task, *overrides):
        fixed = [
            f"hydra.searchpath=[file://{conf_dir()}]",
            "hydra/sweeper=fvit_optuna",
            "hydra.sweep.dir=sweep",
            "hydra.sweeper.objective=score",
        ]
        monkeypatch.setattr(sys, "argv", ["toy", "-m", *fixed, *overrides])
        try:
            hydra.main(version_base="1.3", config_path=None, config_name="toy")(task)()
        finally:
            for handler in set(logging.getLogger().handlers) - set(handlers):
                handler.close()
            logging.getLogger().handlers[:] = handlers

    return run


@pytest.fixture
def trials(tmp_path):
    """The trials of the study in tmp_path/sweep."""

    def read(folder: Path = tmp_path / "sweep", study_name: str = "study"):
        with connected(f"sqlite:///{folder}/study.db") as storage:
            return optuna.load_study(study_name=study_name, storage=storage).trials

    return read
