"""Fixtures that all tests share."""

import os

# Before torch is imported anywhere: tests share the cores with each other's subprocesses.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("COLUMNS", None)  # pytest-xdist gives its workers 80, which would fold what a test reads

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from fvit.run import schema, validate
from fvit.run.paths import conf_dir

Compose = Callable[..., dict[str, Any]]


@pytest.fixture
def compose_config(tmp_path: Path) -> Compose:
    """A checked training configuration from overrides, its run's folder inside tmp_path."""

    def make(*overrides: str) -> dict[str, Any]:
        fixed = [f"output_dir={tmp_path / 'run'}", "title=test"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return validate.check(compose("train", overrides=[*fixed, *overrides]), schema.Train)

    return make
